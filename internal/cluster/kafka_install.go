package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	kafkaVersion = "4.3.1"
	kafkaName    = "kafka-" + kafkaVersion
	javaMajorMin = 17
	kafkaCure    = "install Java 17 or newer and Maven (Debian: apt-get install openjdk-17-jre-headless maven), " +
		"or set KAFKA=sim"
)

//go:embed kafka-pom.xml
var kafkaPOM string

// javaFast starts a broker in a second, in 170 MB: no second compiler, a small heap.
var javaFast = []string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}

// KafkaAvailable says whether a real Kafka can be started here, and if not, why.
func KafkaAvailable() (ok bool, why string) {
	if _, err := javaVersion(); err != nil {
		return false, err.Error()
	}
	if cache, err := CacheDir(); err == nil {
		if _, err := os.Stat(filepath.Join(cache, kafkaName)); err == nil {
			return true, ""
		}
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return false, "no mvn in PATH"
	}
	return true, ""
}

// javaVersion returns such as 17.0.15, from the file beside the program if there is one: asking Java takes longer
// than all the rest.
func javaVersion() (string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return "", errors.New("no java in PATH")
	}
	text := ""
	if real, err := filepath.EvalSymlinks(java); err == nil {
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(real), "..", "release"))
		text = string(b)
	}
	pattern := regexp.MustCompile(`(?:JAVA_VERSION=|version )"((\d+)[^"]*)"`)
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		b, err := exec.Command(java, "-version").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("java -version: %w", err)
		}
		m = pattern.FindStringSubmatch(string(b))
	}
	if m == nil {
		return "", errors.New("java -version says no version")
	}
	if major, _ := strconv.Atoi(m[2]); major < javaMajorMin {
		return "", fmt.Errorf("java is %s, Kafka needs %d or newer", m[1], javaMajorMin)
	}
	return m[1], nil
}

// kafkaJava is the command line up to the class name.
type kafkaJava []string

// installKafka returns how Kafka's programs are run, after fetching them if need be.
func installKafka(ctx context.Context, log Log) (kafkaJava, error) {
	if ok, why := KafkaAvailable(); !ok {
		return nil, fmt.Errorf("cluster: find Kafka: %s: %s", why, kafkaCure)
	}
	dir, err := install(ctx, kafkaName, func(dir string) error {
		log.printf("fetching Kafka %s by Maven (44 MB, once)", kafkaVersion)
		return fetchKafka(ctx, dir)
	})
	if err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar")) // sorted: the class archive is bound to their order
	if err != nil {
		return nil, err
	}
	j := kafkaJava(append(append([]string{}, javaFast...), "-cp", strings.Join(jars, ":")))
	archive, err := kafkaClassArchive(ctx, j, log)
	if err != nil {
		log.printf("no class archive, Kafka starts in three seconds instead of one: %v", err)
		return j, nil
	}
	return append(kafkaJava{"-XX:SharedArchiveFile=" + archive, "-Xlog:cds=off", "-Xlog:cds+dynamic=off"}, j...), nil
}

func fetchKafka(ctx context.Context, dir string) error {
	pom := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(pom, []byte(strings.ReplaceAll(kafkaPOM, "@KAFKA@", kafkaVersion)), 0o644); err != nil {
		return err
	}
	return maven(ctx, dir, "-f", pom, "dependency:copy-dependencies", "-DoutputDirectory="+dir)
}

// kafkaClassArchive returns the file in which this Java keeps Kafka's classes loaded, writing it the first time: a
// broker's end writes it. An empty file is the memory of a Java that could not.
func kafkaClassArchive(ctx context.Context, j kafkaJava, log Log) (string, error) {
	version, err := javaVersion()
	if err != nil {
		return "", err
	}
	dir, err := install(ctx, kafkaName+"-classes-java-"+version, func(dir string) error {
		log.printf("preparing Kafka's class archive for Java %s (once)", version)
		file := filepath.Join(dir, "kafka.jsa")
		if err := writeClassArchive(ctx, j, file); err != nil {
			if ctx.Err() != nil {
				return err // the next run may have more time
			}
			log.printf("class archive: %v", err)
			return os.WriteFile(file, nil, 0o644)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "kafka.jsa")
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		return "", errors.New("this Java could not write one")
	}
	return file, nil
}

func writeClassArchive(ctx context.Context, j kafkaJava, file string) error {
	k, err := startBrokers(ctx, KafkaOptions{JVM: []string{"-XX:ArchiveClassesAtExit=" + file}}, j)
	if err != nil {
		return err
	}
	defer k.Stop()
	k.brokers[0].process.stop(30*time.Second, syscall.SIGTERM)
	_, err = os.Stat(file)
	return err
}
