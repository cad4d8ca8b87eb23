// Command build makes the container image of the gateway: the static binary,
// an account and nothing else, byte for byte the same from the same source. It
// needs no container engine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status: 0
// done, 1 failed, 2 usage.
func run(ctx context.Context, args []string, epoch string, stdout, stderr io.Writer) int {
	o, err := parse(args, epoch, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "build:", err)
		return 2
	}
	digest, err := o.build(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "build:", err)
		return 1
	}
	fmt.Fprintf(stdout, "%s@%s\n", o.ref, digest)
	return 0
}

// options are what the command line asks for.
type options struct {
	platforms []v1.Platform
	pkg       string            // package to compile
	ldflags   string            // added to those of compile
	binaries  map[string]string // files to take instead, by platform
	ca        string            // file of CA certificates; "" for none
	ref       name.Reference    // what the image is called
	labels    map[string]string
	created   time.Time

	tarball string // file for docker load
	layout  string // directory in OCI layout
	push    bool   // to the registry that ref names
}

func parse(args []string, epoch string, stderr io.Writer) (*options, error) {
	o := &options{binaries: map[string]string{}, labels: map[string]string{}, created: time.Unix(0, 0).UTC()}
	f := flag.NewFlagSet("build", flag.ContinueOnError)
	f.SetOutput(stderr)
	platforms := f.String("platform", "linux/"+runtime.GOARCH, "platforms, separated by commas; more than one make an index")
	f.StringVar(&o.pkg, "package", "sluice", "Go package of the program")
	f.StringVar(&o.ldflags, "ldflags", "", "more flags for the linker, such as -X for a version")
	f.StringVar(&o.ca, "ca", "", "PEM `file` of the certificate authorities to trust upstream, such as /etc/ssl/certs/ca-certificates.crt")
	tag := f.String("tag", "sluice:latest", "`name` of the image in the tarball and in the layout")
	version := f.String("version", "", "version, for the image's labels")
	f.StringVar(&o.tarball, "tarball", "", "write a `file` for docker load")
	f.StringVar(&o.layout, "layout", "", "write a `directory` in OCI image layout")
	push := f.String("push", "", "push to a registry as this `reference`, with the credentials of docker login")
	f.Func("binary", "take this binary instead of compiling, as `FILE` or PLATFORM=FILE (repeatable)", func(s string) error {
		platform, file, ok := strings.Cut(s, "=")
		if !ok {
			platform, file = "", s
		}
		o.binaries[platform] = file
		return nil
	})
	f.Func("label", "add a label, as `KEY=VALUE` (repeatable)", func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return errors.New("want KEY=VALUE")
		}
		o.labels[k] = v
		return nil
	})
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q; want flags only", f.Arg(0))
	}
	o.label(*version)
	if err := o.parsePlatforms(*platforms); err != nil {
		return nil, err
	}
	if epoch != "" {
		s, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		o.created = time.Unix(s, 0).UTC()
	}
	return o, o.parseOutput(*tag, *push)
}

func (o *options) parsePlatforms(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		p, err := v1.ParsePlatform(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("platform %q: %w", s, err)
		}
		if p.OS != "linux" || machines[p.Architecture] == 0 || p.Variant != "" {
			return fmt.Errorf("platform %q; want linux/amd64 or linux/arm64", s)
		}
		o.platforms = append(o.platforms, *p)
	}
	if _, ok := o.binaries[""]; ok && len(o.platforms) > 1 {
		return errors.New("-binary FILE serves one platform; write -binary PLATFORM=FILE for each")
	}
	return nil
}

func (o *options) parseOutput(tag, push string) error {
	if o.tarball == "" && o.layout == "" && push == "" {
		return errors.New("nothing to write; add -tarball, -layout or -push")
	}
	if o.tarball != "" && len(o.platforms) > 1 {
		return errors.New("-tarball holds one platform; use -layout or -push for several")
	}
	o.push = push != ""
	if o.push {
		tag = push
	}
	ref, err := name.ParseReference(tag)
	if err != nil {
		return fmt.Errorf("name of the image: %w", err)
	}
	if _, ok := ref.(name.Tag); !ok {
		return fmt.Errorf("name of the image: %q has a digest; want a tag", tag)
	}
	o.ref = ref
	return nil
}

// label sets the labels of the OCI image specification (annotations.md) that
// were not given.
func (o *options) label(version string) {
	for k, v := range map[string]string{
		"org.opencontainers.image.title":       "sluice",
		"org.opencontainers.image.description": "Transparent egress proxy gateway with domain allowlisting",
		"org.opencontainers.image.version":     version,
	} {
		if _, ok := o.labels[k]; !ok && v != "" {
			o.labels[k] = v
		}
	}
}
