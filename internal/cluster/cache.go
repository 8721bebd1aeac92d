package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CacheDir is the folder for downloads, created if it is missing: BATON_CACHE, or baton in the user's cache folder.
// Root's home is usually closed to the user that PostgreSQL runs as; then it is /var/tmp/baton-cache-<uid>.
func CacheDir() (string, error) {
	dir := os.Getenv("BATON_CACHE")
	if dir == "" {
		dir = defaultCacheDir()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cluster: find cache folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cluster: create cache folder (set BATON_CACHE to one that can be written): %w", err)
	}
	if err := checkOwned(dir); err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		if closed := closedParent(dir); closed != "" {
			return "", fmt.Errorf("cluster: cache folder %s: %s is closed to other users, and PostgreSQL does not run as root: "+
				"chmod 0755 it, or set BATON_CACHE to another folder", dir, closed)
		}
	}
	return dir, nil
}

func defaultCacheDir() string {
	home, err := os.UserCacheDir()
	if err == nil && (os.Geteuid() != 0 || closedParent(home) == "") {
		return filepath.Join(home, "baton")
	}
	return fmt.Sprintf("/var/tmp/baton-cache-%d", os.Geteuid())
}

// checkOwned refuses a folder that another user could have prepared for us: we run what lies in it.
func checkOwned(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("cluster: check cache folder: %w", err)
	}
	if !info.IsDir() || owner(info) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cluster: cache folder %s must be a folder of user %d that nobody else can write, "+
			"is %v of user %d: set BATON_CACHE to another one", dir, os.Geteuid(), info.Mode(), owner(info))
	}
	return nil
}

// closedParent is the first folder on the way to dir, from the bottom, that other users may not enter; "" if none.
// Folders that do not exist yet count as open.
func closedParent(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// install returns the cache's folder of that name, calling fill on an empty one if it is missing. Others see all of it
// or nothing: it is filled under a lock and another name.
func install(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := lockCache(ctx, filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	temporary := filepath.Join(cache, "."+name+".new") // left by a killed run, if it exists
	if err := errors.Join(os.RemoveAll(temporary), os.Mkdir(temporary, 0o755)); err != nil {
		return "", fmt.Errorf("cluster: install %s: %w", name, err)
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil { // whatever the umask is
		return "", fmt.Errorf("cluster: install %s: %w", name, err)
	}
	if err := fill(temporary); err != nil {
		return "", fmt.Errorf("cluster: install %s: %w", name, err)
	}
	if err := os.Rename(temporary, final); err != nil {
		return "", fmt.Errorf("cluster: install %s: %w", name, err)
	}
	return final, nil
}

// lockCache waits for the lock file's lock. The kernel gives it back when its holder dies.
func lockCache(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cluster: lock cache: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cluster: lock cache %s: %w", path, err)
		}
		if ok {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("cluster: lock cache %s, held by another process: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// workDir returns a folder for a server's files, which user u can enter, and what removes it. A folder that the
// caller named is kept.
func workDir(named, prefix string, u *User) (dir string, remove func(), err error) {
	if named == "" {
		base := os.TempDir()
		if u != nil && closedParent(base) != "" {
			base = "/var/tmp"
		}
		if named, err = os.MkdirTemp(base, prefix); err != nil {
			return "", nil, fmt.Errorf("cluster: create folder: %w", err)
		}
		if err := os.Chmod(named, 0o755); err != nil {
			return "", nil, fmt.Errorf("cluster: create folder: %w", err)
		}
		return named, func() { os.RemoveAll(named) }, nil
	}
	if named, err = filepath.Abs(named); err == nil {
		err = os.MkdirAll(named, 0o755)
	}
	if err != nil {
		return "", nil, fmt.Errorf("cluster: create folder: %w", err)
	}
	if closed := closedParent(named); u != nil && closed != "" {
		return "", nil, fmt.Errorf("cluster: folder %s: the server runs as user %d, and %s is closed to it: "+
			"chmod 0755 it, or name another folder", named, u.UID, closed)
	}
	return named, func() {}, nil
}
