// SPDX-License-Identifier: Apache-2.0

// Command csi-registrar tells the kubelet where a CSI driver listens, and says nothing more: Kubernetes' own
// node-driver-registrar is no dependency of anything the rig builds.
//
//	csi-registrar DRIVER_NAME DRIVER_SOCKET REGISTRATION_SOCKET
package main

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type driver struct {
	registration.UnimplementedRegistrationServer
	name, socket string
}

func (d driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              d.name,
		Endpoint:          d.socket,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d driver) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (
	*registration.RegistrationStatusResponse, error,
) {
	log.Printf("%s registered: %v %s", d.name, status.PluginRegistered, status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: csi-registrar DRIVER_NAME DRIVER_SOCKET REGISTRATION_SOCKET")
	}
	name, socket, listen := os.Args[1], os.Args[2], os.Args[3]
	if err := os.Remove(listen); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, driver{name: name, socket: socket})
	log.Fatal(server.Serve(listener))
}
