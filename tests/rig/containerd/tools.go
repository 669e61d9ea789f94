// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools names the commands that the rig builds, so that go.mod pins what they need.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
