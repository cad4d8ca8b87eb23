package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sys/unix"
)

// storage is certmagic's file storage with flock(2) in place of its lock files.
//
// Lock files must be kept fresh by a goroutine that outlives Unlock by seconds, can be left behind empty by a crash,
// and are taken over by two processes at once when stale. The kernel drops a flock when its process dies.
type storage struct {
	certmagic.FileStorage

	mu   sync.Mutex
	held map[string]*os.File
}

// lockPoll is how often a lock that another process holds is tried again. Orders take seconds.
const lockPoll = 100 * time.Millisecond

// openStorage makes dir if needed, for the owner alone.
func openStorage(dir string, log *slog.Logger) (*storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("storage directory: %w", err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("storage directory: %w", err)
	}
	// A mounted volume often has a group of its own; the keys inside are 0600, so this is not refused.
	if fi.Mode().Perm()&0o077 != 0 {
		log.Warn("storage directory of certificates is open to others; set mode 0700", "dir", dir, "mode", fi.Mode().Perm().String())
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("storage directory %s: can not write: %w; give one this user owns", dir, err)
	}
	return &storage{FileStorage: certmagic.FileStorage{Path: dir}, held: make(map[string]*os.File)}, nil
}

// Lock waits until name is ours or ctx ends.
func (s *storage) Lock(ctx context.Context, name string) error {
	t := time.NewTicker(lockPoll)
	defer t.Stop()
	for {
		ok, err := s.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %q: %w", name, ctx.Err())
		case <-t.C:
		}
	}
}

// TryLock takes name if nobody has it.
func (s *storage) TryLock(_ context.Context, name string) (bool, error) {
	dir := filepath.Join(s.Path, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("lock %q: %w", name, err)
	}
	// The file stays: removing it would let two processes lock two files of one name.
	path := filepath.Join(dir, certmagic.StorageKeys.Safe(name)+".flock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false, fmt.Errorf("lock %q: %w", name, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return false, fmt.Errorf("lock %q: %w", name, err)
	}
	s.mu.Lock()
	s.held[name] = f
	s.mu.Unlock()
	return true, nil
}

// Unlock gives name back.
func (s *storage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	f := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if f == nil {
		return fmt.Errorf("unlock %q: not locked", name)
	}
	return f.Close()
}
