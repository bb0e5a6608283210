"""`client.py PORT`: calls everything that the service has, and prints what it gets."""

import sys

import counter_pb2
import counter_pb2_grpc
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TOKEN = (("token", "secret"),)


def main() -> None:
    """Calls the server, which may not listen yet."""
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
        counter, journal = counter_pb2_grpc.CounterStub(channel), counter_pb2_grpc.JournalStub(channel)
        options = {"metadata": TOKEN, "timeout": 20, "wait_for_ready": True}
        print("add", counter.Add(counter_pb2.Amount(value=3), **options).value)
        print("add", counter.Add(counter_pb2.Amount(value=4), **options).value)
        print("watch", [total.value for total in counter.Watch(counter_pb2.Amount(value=3), **options)])
        recorded = journal.Record(iter([counter_pb2.Amount(value=1)] * 5), **options)
        print("record", recorded.value)
        for refused, metadata in ((-1, TOKEN), (1, ())):
            try:
                counter.Add(counter_pb2.Amount(value=refused), metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                print("add", error.code().name, error.details())
        health = health_pb2_grpc.HealthStub(channel)
        service = "examples.counter.v1.Counter"
        status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status
        print("health", health_pb2.HealthCheckResponse.ServingStatus.Name(status))
        print("services", *sorted(ProtoReflectionDescriptorDatabase(channel).get_services()))
        print(f"the journal ran on {recorded.thread}")


if __name__ == "__main__":
    main()
