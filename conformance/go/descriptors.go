// Prints the descriptors of the interop service and of google.rpc.Status, as a FileDescriptorSet. Built within
// grpc-go's module, whose generated code has them.
//
// Their files are put into a folder `interop`: in Python a `grpc/testing` would lie within the package of grpcio.
package main

import (
	"os"
	"path"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

var set descriptorpb.FileDescriptorSet
var added = map[string]bool{}

func moved(name string) string {
	if path.Dir(name) == "google/protobuf" {
		return name
	}
	return "interop/" + path.Base(name)
}

// Adds a file after those that it imports.
func add(file protoreflect.FileDescriptor) {
	if added[file.Path()] {
		return
	}
	added[file.Path()] = true
	for i := 0; i < file.Imports().Len(); i++ {
		add(file.Imports().Get(i).FileDescriptor)
	}
	described := protodesc.ToFileDescriptorProto(file)
	described.Name = proto.String(moved(file.Path()))
	for i, dependency := range described.Dependency {
		described.Dependency[i] = moved(dependency)
	}
	set.File = append(set.File, described)
}

func main() {
	add(testpb.File_grpc_testing_test_proto)
	add(spb.File_google_rpc_status_proto)
	data, err := proto.Marshal(&set)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	if err != nil {
		panic(err)
	}
}
