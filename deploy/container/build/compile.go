package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// machines are the architectures that images are made for, by Go's names.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// binary returns the program for one platform, given or compiled, and makes
// sure that it can run there with nothing beside it.
func (o *options) binary(ctx context.Context, p v1.Platform) ([]byte, error) {
	file, ok := o.binaries[p.String()]
	if !ok {
		file, ok = o.binaries[""]
	}
	if !ok {
		dir, err := os.MkdirTemp("", "sluice-image-")
		if err != nil {
			return nil, fmt.Errorf("make a directory to compile in: %w", err)
		}
		defer os.RemoveAll(dir)
		file = filepath.Join(dir, "sluice")
		if err := compile(ctx, p, o.pkg, o.ldflags, file); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the binary: %w", err)
	}
	if err := checkStatic(data, machines[p.Architecture]); err != nil {
		return nil, fmt.Errorf("binary for %s: %w", p, err)
	}
	return data, nil
}

// compile builds a Go package without cgo and without paths of this machine.
func compile(ctx context.Context, p v1.Platform, pkg, ldflags, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid= "+ldflags, "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s for %s: %w: %s", pkg, p, err, bytes.TrimSpace(text))
	}
	return nil
}

// checkStatic refuses a binary that a scratch image could not start.
func checkStatic(data []byte, want elf.Machine) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not an ELF file: %w", err)
	}
	if f.Machine != want {
		return fmt.Errorf("it is for %s; want %s", f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically; build it with CGO_ENABLED=0")
		}
	}
	return nil
}
