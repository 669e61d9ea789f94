// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package spire pins the SPIRE server and agent that the tests run against.
package spire

import (
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
