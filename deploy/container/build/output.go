package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// refName is the annotation by which tools find an image in a layout (OCI image
// specification, annotations.md).
const refName = "org.opencontainers.image.ref.name"

// build makes the image, or the index of several, writes it to each place that
// was asked for, and returns its digest.
func (o *options) build(ctx context.Context) (v1.Hash, error) {
	ca, err := readCA(o.ca)
	if err != nil {
		return v1.Hash{}, err
	}
	var images []v1.Image
	for _, p := range o.platforms {
		binary, err := o.binary(ctx, p)
		if err != nil {
			return v1.Hash{}, err
		}
		img, err := o.image(p, binary, ca)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("image for %s: %w", p, err)
		}
		images = append(images, img)
	}
	if len(images) > 1 {
		return o.writeIndex(ctx, index(o.platforms, images))
	}
	return o.writeImage(ctx, images[0])
}

// readCA reads certificate authorities; "" gives none.
func readCA(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authorities: %w", err)
	}
	if block, _ := pem.Decode(data); block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read the certificate authorities: %s holds no PEM certificate", file)
	}
	return data, nil
}

func (o *options) writeImage(ctx context.Context, img v1.Image) (v1.Hash, error) {
	if o.tarball != "" {
		if err := tarball.WriteToFile(o.tarball, o.ref, img); err != nil {
			return v1.Hash{}, fmt.Errorf("write %s: %w", o.tarball, err)
		}
	}
	if o.layout != "" {
		dir, err := newLayout(o.layout)
		if err != nil {
			return v1.Hash{}, err
		}
		err = dir.AppendImage(img, layout.WithAnnotations(o.annotations()), layout.WithPlatform(o.platforms[0]))
		if err != nil {
			return v1.Hash{}, fmt.Errorf("write layout %s: %w", o.layout, err)
		}
	}
	if o.push {
		if err := remote.Write(o.ref, img, remoteOptions(ctx)...); err != nil {
			return v1.Hash{}, fmt.Errorf("push %s: %w", o.ref, err)
		}
	}
	return img.Digest()
}

func (o *options) writeIndex(ctx context.Context, idx v1.ImageIndex) (v1.Hash, error) {
	if o.layout != "" {
		dir, err := newLayout(o.layout)
		if err != nil {
			return v1.Hash{}, err
		}
		if err := dir.AppendIndex(idx, layout.WithAnnotations(o.annotations())); err != nil {
			return v1.Hash{}, fmt.Errorf("write layout %s: %w", o.layout, err)
		}
	}
	if o.push {
		if err := remote.WriteIndex(o.ref, idx, remoteOptions(ctx)...); err != nil {
			return v1.Hash{}, fmt.Errorf("push %s: %w", o.ref, err)
		}
	}
	return idx.Digest()
}

// newLayout starts an OCI layout in a directory that is empty or not there yet,
// since blobs of an older image would stay in it.
func newLayout(dir string) (layout.Path, error) {
	have, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("write layout: %w", err)
	}
	if len(have) > 0 {
		return "", fmt.Errorf("write layout %s: the directory is not empty; remove it first", dir)
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", fmt.Errorf("write layout %s: %w", dir, err)
	}
	return p, nil
}

func (o *options) annotations() map[string]string {
	return map[string]string{refName: o.ref.Identifier()}
}

func remoteOptions(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}
