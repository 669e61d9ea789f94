// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools names the commands that the rig builds, so that go.mod pins what they need.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
