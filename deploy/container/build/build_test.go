package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const standin = "./testdata/standin"

// program is the package that the image is made of: the gateway, or a stand-in
// in a tree that does not hold it.
func program(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Name}}", "sluice").Output()
	if err == nil && strings.TrimSpace(string(out)) == "main" {
		return "sluice"
	}
	t.Log("package sluice is no program here; the stand-in takes its place")
	return standin
}

// registryServer runs a registry on loopback and returns its address.
func registryServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// mustRun runs the command and returns the digest that it prints.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, "", &stdout, &stderr); code != 0 {
		t.Fatalf("build %q: exit status %d: %s", args, code, stderr.String())
	}
	_, digest, _ := strings.Cut(strings.TrimSpace(stdout.String()), "@")
	return digest
}

func pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImageThroughARegistry(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pkg, host := program(t), registryServer(t)
	first := mustRun(t, "-package", pkg, "-ca", ca, "-version", "1.2.3", "-push", host+"/sluice:a")
	second := mustRun(t, "-package", pkg, "-ca", ca, "-version", "1.2.3", "-push", host+"/sluice:b")
	if first != second {
		t.Errorf("two builds of one source: %s and %s", first, second)
	}

	img := pull(t, host+"/sluice:a")
	checkLayers(t, img)
	if got, err := img.Digest(); err != nil || got.String() != first {
		t.Errorf("pulled digest %s, %v; pushed %s", got, err, first)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || config.OS != "linux" || config.Architecture != runtime.GOARCH {
		t.Errorf("user %q on %s/%s", config.Config.User, config.OS, config.Architecture)
	}
	if got := config.Config.Labels["org.opencontainers.image.version"]; got != "1.2.3" {
		t.Errorf("version label %q; want 1.2.3", got)
	}
	if got := strings.Join(append(config.Config.Entrypoint, config.Config.Cmd...), " "); got != "/sluice run" {
		t.Errorf("starts %q; want /sluice run", got)
	}

	root := unpack(t, img)
	if _, err := os.Stat(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")); err != nil {
		t.Error(err)
	}
	if out := start(t, root, "version"); strings.TrimSpace(out) == "" {
		t.Error("the program in the image says nothing for version")
	}
}

// checkLayers compares the layers' content with the digests that the image's
// configuration gives, which an engine does before it starts anything.
func checkLayers(t *testing.T, img v1.Image) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) == 0 || len(layers) != len(config.RootFS.DiffIDs) || len(layers) != len(config.History) {
		t.Fatalf("%d layers, %d digests, %d lines of history", len(layers), len(config.RootFS.DiffIDs), len(config.History))
	}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s; the configuration says %s", i, got, config.RootFS.DiffIDs[i])
		}
	}
}

// unpack writes the files of an image to a directory.
func unpack(t *testing.T, img v1.Image) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	stream := mutate.Extract(img)
	defer stream.Close()
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(root, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(target, h.FileInfo().Mode().Perm())
		} else {
			err = writeFile(target, h.FileInfo().Mode().Perm(), r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func writeFile(target string, mode fs.FileMode, r io.Reader) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// start runs the program of an unpacked image: with the image as its root and
// as the image's account where the test may do that, else in place.
func start(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "sluice"), args...)
	cmd.Env = []string{"HOME=/var/lib/sluice"}
	if os.Getuid() == 0 {
		cmd.Path, cmd.Dir = "/sluice", "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return string(out)
}

func TestProgramRunsAsItsAccount(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to change root and account, and CI must have it")
		}
		t.Skip("needs root to change root and account")
	}
	host := registryServer(t)
	mustRun(t, "-package", standin, "-push", host+"/sluice:a")
	out := start(t, unpack(t, pull(t, host+"/sluice:a")), "version")
	if want := "standin " + runtime.GOARCH + " 65532\n"; out != want {
		t.Errorf("got %q; want %q", out, want)
	}
}

func TestIndexOfTwoPlatforms(t *testing.T) {
	host, dir := registryServer(t), filepath.Join(t.TempDir(), "image")
	digest := mustRun(t, "-package", standin, "-platform", "linux/amd64,linux/arm64", "-push", host+"/sluice:multi", "-layout", dir)

	ref, err := name.ParseReference(host + "/sluice:multi")
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := idx.Digest(); err != nil || got.String() != digest {
		t.Errorf("pulled digest %s, %v; pushed %s", got, err, digest)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		checkLayers(t, img)
		binary, err := os.ReadFile(filepath.Join(unpack(t, img), "sluice"))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkStatic(binary, machines[arch]); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}

	manifest := layoutManifest(t, dir)
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest.String() != digest || manifest.Manifests[0].Annotations[refName] != "multi" {
		t.Errorf("layout names %+v; want %s as multi", manifest.Manifests, digest)
	}
}

func layoutManifest(t *testing.T, dir string) *v1.IndexManifest {
	t.Helper()
	p, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTarballAndLayoutHoldTheSameImage(t *testing.T) {
	dir := t.TempDir()
	one, two, tree := filepath.Join(dir, "one.tar"), filepath.Join(dir, "two.tar"), filepath.Join(dir, "layout")
	digest := mustRun(t, "-package", standin, "-tarball", one, "-layout", tree, "-tag", "example.test/sluice:dev")
	mustRun(t, "-package", standin, "-tarball", two, "-tag", "example.test/sluice:dev")

	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two tarballs of one source differ")
	}
	tag, err := name.NewTag("example.test/sluice:dev")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(one, &tag)
	if err != nil {
		t.Fatal(err)
	}
	checkLayers(t, img)
	m := layoutManifest(t, tree)
	if len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != digest || m.Manifests[0].Annotations[refName] != "dev" {
		t.Errorf("layout names %+v; want %s as dev", m.Manifests, digest)
	}
}

func TestDateComesFromTheEnvironment(t *testing.T) {
	host := registryServer(t)
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-package", standin, "-push", host + "/sluice:a"}, "1700000000", &stdout, &stderr); code != 0 {
		t.Fatal(stderr.String())
	}
	config, err := pull(t, host+"/sluice:a").ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Created.Unix(); got != 1700000000 {
		t.Errorf("created %d; want 1700000000", got)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.tar")
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no output":                {nil, 2, "nothing to write"},
		"unknown flag":             {[]string{"-nope"}, 2, "nope"},
		"argument":                 {[]string{"-tarball", out, "x"}, 2, `argument "x"`},
		"platform of another kind": {[]string{"-tarball", out, "-platform", "windows/amd64"}, 2, "want linux/amd64 or linux/arm64"},
		"tarball of two":           {[]string{"-tarball", out, "-platform", "linux/amd64,linux/arm64"}, 2, "-tarball holds one platform"},
		"one binary for two":       {[]string{"-layout", out, "-binary", text, "-platform", "linux/amd64,linux/arm64"}, 2, "-binary FILE serves one platform"},
		"label without a value":    {[]string{"-label", "x"}, 2, "want KEY=VALUE"},
		"digest for a tag":         {[]string{"-push", "example.test/sluice@sha256:" + strings.Repeat("0", 64)}, 2, "want a tag"},
		"binary that is none":      {[]string{"-tarball", out, "-binary", text}, 1, "not an ELF file"},
		"package that is none":     {[]string{"-tarball", out, "-package", "./nowhere"}, 1, "compile ./nowhere"},
		"layout over an old one":   {[]string{"-layout", full, "-package", standin}, 1, "the directory is not empty"},
		"CA file without one":      {[]string{"-tarball", out, "-ca", text}, 1, "holds no PEM certificate"},
		"CA file that is missing":  {[]string{"-tarball", out, "-ca", text + "x"}, 1, "no such file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), tt.args, "", &stdout, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit status %d, %q; want %d and %q", code, stderr.String(), tt.code, tt.want)
			}
		})
	}
}

func TestBinaryMustFitThePlatform(t *testing.T) {
	file := filepath.Join(t.TempDir(), "arm")
	if err := compile(t.Context(), v1.Platform{OS: "linux", Architecture: "arm64"}, standin, "", file); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-platform", "linux/amd64", "-binary", file, "-tarball", file + ".tar"}, "", &stdout, &stderr)
	if want := "it is for EM_AARCH64; want EM_X86_64"; code != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit status %d, %q; want 1 and %q", code, stderr.String(), want)
	}
}

// A binary that asks for a loader would start nowhere but here.
func TestDynamicBinaryIsRefused(t *testing.T) {
	for _, file := range []string{"/bin/sh", "/bin/true", "/usr/bin/env"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if err := checkStatic(data, machines[runtime.GOARCH]); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
			continue // static on this machine
		}
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no dynamic program on this machine, and CI must have one")
	}
	t.Skip("no dynamic program on this machine")
}
