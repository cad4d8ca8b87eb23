package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile bounds one file: about 600,000 names.
const maxFile = 16 << 20

// readFile reads one configuration file whole.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{File: path, Msg: notReadable(err)}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, &Error{File: path, Msg: "is a directory; name a file in it"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, &Error{File: path, Msg: notReadable(err)}
	case len(data) > maxFile:
		return nil, &Error{File: path, Msg: fmt.Sprintf("is larger than %s; put parts of the policy into files of policy.include", ByteSize(maxFile))}
	}
	return data, nil
}

func notReadable(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read by this account"
	}
	return "read: " + err.Error()
}

// expand returns the files that a glob names, sorted. Directories and, unless
// the glob begins with a dot itself, hidden files are passed over: editors
// leave locks beside what they edit, and a Kubernetes volume its ..data.
func expand(glob string) ([]string, error) {
	found, err := filepath.Glob(glob)
	if err != nil {
		return nil, err
	}
	hidden := strings.HasPrefix(filepath.Base(glob), ".")
	files := slices.DeleteFunc(found, func(f string) bool {
		if strings.HasPrefix(filepath.Base(f), ".") && !hidden {
			return true
		}
		info, err := os.Stat(f)
		return err == nil && info.IsDir() && isGlob(glob)
	})
	slices.Sort(files)
	return files, nil
}

func isGlob(s string) bool { return strings.ContainsAny(s, "*?[") }

// sum is a hash of the files that a configuration was read from.
type sum [sha256.Size]byte

// fingerprint hashes names and contents. A file that is not there has none.
func fingerprint(contents map[string]*sum) (total sum) {
	h := sha256.New()
	var paths []string
	for p := range contents {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		fmt.Fprintf(h, "%q", p)
		if c := contents[p]; c != nil {
			h.Write(c[:])
		}
	}
	h.Sum(total[:0])
	return total
}
