package cluster

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// postgresVersions are the binaries that Maven fetches, by major version.
var postgresVersions = map[string]string{"14": "14.22.0", "16": "16.11.0", "17": "17.7.0", "18": "18.3.0"}

const (
	postgresFetched = "18" // what is fetched when nothing is asked for and nothing is installed
	postgresCure    = "install PostgreSQL (Debian: apt-get install postgresql), " +
		"or Maven and xz (apt-get install maven xz-utils)"
)

// postgresLocal is where packages put PostgreSQL: Debian, Red Hat, Homebrew.
var postgresLocal = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"}

// postgresBinaries returns the folder of initdb and postgres of a major version ("": the newest installed one).
func postgresBinaries(ctx context.Context, major string, log Log) (string, error) {
	if dir := installedPostgres(major); dir != "" {
		return dir, nil
	}
	if major == "" {
		major = postgresFetched
	}
	version, ok := postgresVersions[major]
	if !ok {
		return "", fmt.Errorf("cluster: find PostgreSQL %s: not installed, and only 14, 16, 17 and 18 can be fetched", major)
	}
	dir, err := install(ctx, "postgres-"+version, func(dir string) error {
		return fetchPostgres(ctx, version, dir, log)
	})
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%w: %s", err, postgresCure)
	}
	return filepath.Join(dir, "bin"), err
}

// installedPostgres is the folder of an installed version's programs, the newest one when several fit; "" if none.
func installedPostgres(major string) string {
	var newest string
	newestMajor := 0
	for _, pattern := range postgresLocal {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			n := majorOf(dir)
			if (major == "" || major == strconv.Itoa(n)) && n > newestMajor && hasPrograms(dir) {
				newest, newestMajor = dir, n
			}
		}
	}
	if newest != "" || major != "" {
		return newest
	}
	if path, err := exec.LookPath("postgres"); err == nil && hasPrograms(filepath.Dir(path)) {
		return filepath.Dir(path)
	}
	return ""
}

// majorOf reads the number at the end of /usr/lib/postgresql/15, /usr/pgsql-16 and postgresql@17; 0 if there is none.
func majorOf(bin string) int {
	name := filepath.Base(filepath.Dir(bin))
	n, _ := strconv.Atoi(name[strings.LastIndexAny(name, "-@")+1:])
	return n
}

func hasPrograms(dir string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// fetchPostgres unpacks the jar's one archive into dir.
func fetchPostgres(ctx context.Context, version, dir string, log Log) error {
	for _, tool := range []string{"mvn", "tar", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	log.printf("fetching PostgreSQL %s binaries by Maven (15 MB, once)", version)
	arch := map[string]string{"amd64": "amd64", "arm64": "arm64v8"}[runtime.GOARCH]
	artifact := fmt.Sprintf("embedded-postgres-binaries-%s-%s", runtime.GOOS, arch)
	err := maven(ctx, dir, "dependency:copy", "-DoutputDirectory="+dir,
		"-Dartifact=io.zonky.test.postgres:"+artifact+":"+version)
	if err != nil {
		return err
	}
	jar := filepath.Join(dir, artifact+"-"+version+".jar")
	archive := filepath.Join(dir, "postgres.txz")
	if err := unzipOne(jar, ".txz", archive); err != nil {
		return err
	}
	tar := ProcessOptions{Path: "tar", Args: []string{"-xJf", archive, "-C", dir}, Output: &tailWriter{}}
	return errors.Join(runToEnd(ctx, tar), os.Remove(archive), os.Remove(jar))
}

// unzipOne copies the zip file's entry whose name ends so.
func unzipOne(archive, suffix, to string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, suffix) {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		w, err := os.Create(to)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, r)
		return errors.Join(err, w.Close())
	}
	return fmt.Errorf("%s holds no %s", archive, suffix)
}
