package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// uid is the account of the gateway in the image, the one that images without
// a shell have come to share as "nonroot".
const uid = 65532

// file is one entry of a layer.
type file struct {
	name  string // without a leading slash; a directory ends in one
	mode  int64
	owner int
	data  []byte
}

// base is all that an image holds besides the binary. ca may be nil.
func base(ca []byte) []file {
	files := []file{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:\nsluice:x:%d:\n", uid)},
		{name: "etc/passwd", mode: 0o644, data: fmt.Appendf(nil,
			"root:x:0:0:root:/:/sbin/nologin\nsluice:x:%d:%[1]d:sluice:/var/lib/sluice:/sbin/nologin\n", uid)},
		{name: "etc/sluice/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
		{name: "var/", mode: 0o755},
		{name: "var/lib/", mode: 0o755},
		{name: "var/lib/sluice/", mode: 0o750, owner: uid},
	}
	if ca != nil {
		files = append(files,
			file{name: "etc/ssl/", mode: 0o755},
			file{name: "etc/ssl/certs/", mode: 0o755},
			file{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: ca})
	}
	return files
}

// layer packs files, sorted and with one time, so that equal files make equal
// layers.
func layer(files []file, created time.Time) (v1.Layer, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, f := range files {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner,
			Size: int64(len(f.data)), ModTime: created, Format: tar.FormatUSTAR,
		}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// image makes the image of one platform: a layer that seldom changes, and one
// with the binary.
func (o *options) image(p v1.Platform, binary, ca []byte) (v1.Image, error) {
	var adds []mutate.Addendum
	for _, part := range []struct {
		files []file
		what  string
	}{
		{base(ca), "account, directories and certificate authorities"},
		{[]file{{name: "sluice", mode: 0o755, data: binary}}, "static binary"},
	} {
		l, err := layer(part.files, o.created)
		if err != nil {
			return nil, err
		}
		adds = append(adds, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: o.created}, CreatedBy: part.what}})
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, fmt.Errorf("add the layers: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = p.OS, p.Architecture
	config.Created = v1.Time{Time: o.created}
	config.Config = v1.Config{
		User:         fmt.Sprintf("%d:%[1]d", uid),
		Entrypoint:   []string{"/sluice"},
		Cmd:          []string{"run"},
		Env:          []string{"PATH=/", "HOME=/var/lib/sluice", "XDG_STATE_HOME=/var/lib"},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"3128/tcp": {}},
		Labels:       o.labels,
	}
	img, err = mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("set the image's configuration: %w", err)
	}
	return img, nil
}

// index joins the images of several platforms, in the order given.
func index(platforms []v1.Platform, images []v1.Image) v1.ImageIndex {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, img := range images {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platforms[i]}})
	}
	return idx
}
