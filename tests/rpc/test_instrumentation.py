"""OpenTelemetry's and Sentry's instrumentation for grpc.aio, the real packages, each in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.rpc.support import TIMEOUT, ClientProcess, generated, probe_pb2

ASK = "/atoll.tests.v1.Probe/Ask"
WATCH = "/atoll.tests.v1.Streams/Watch"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"

# `prepare` instruments; the server is made after it or before, as `sys.argv[2]` says. Says at the end what it has seen.
PROGRAM = """
import asyncio, json, logging, sys
sys.path.append(sys.argv[1])
import grpc, grpc.aio
import probe_pb2, probe_pb2_grpc
from atoll import IoContext, IoContextThread, ModuleRef, rpc

warnings = []

class Collect(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())

logging.getLogger("atoll").addHandler(Collect(logging.WARNING))

class Store:
    async def get(self, key):
        return await on_get(key)

class Probe(probe_pb2_grpc.ProbeServicer):
    def __init__(self, store):
        self.store = store

    async def Ask(self, request, context):
        if request.text == "fail":
            raise LookupError("on purpose")
        if request.text == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "not there")
        return probe_pb2.Note(text=await self.store.call(Store.get, request.text))

class Streams(probe_pb2_grpc.StreamsServicer):
    async def Watch(self, request, context):
        for number in range(request.number):
            yield probe_pb2.Note(number=number)

def make():
    kind = sys.argv[2]
    return rpc.Server() if kind == "without grpcio" else rpc.server(interceptors=None)

async def main():
    if sys.argv[2] == "late":
        server = make()
        prepare()
    else:
        prepare()
        server = make()
    with IoContextThread("probe") as probe, IoContextThread("store") as store:
        servicer = Probe(ModuleRef(store.io_context, Store()))
        probe_pb2_grpc.add_ProbeServicer_to_server(servicer, server.on(probe.io_context))
        probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server)
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)
    print(json.dumps({"seen": seen(), "warnings": warnings}), flush=True)

"""

OPENTELEMETRY = """
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

def prepare():
    trace.set_tracer_provider(provider)
    GrpcAioInstrumentorServer().instrument()

async def on_get(key):
    with trace.get_tracer("store").start_as_current_span("get"):
        await asyncio.sleep(0)
        return IoContext.current().name

def seen():
    return [
        {
            "name": span.name,
            "trace": f"{span.context.trace_id:032x}",
            "id": f"{span.context.span_id:016x}",
            "parent": span.parent and f"{span.parent.span_id:016x}",
            "status": span.attributes.get("rpc.grpc.status_code"),
            "events": [event.name for event in span.events],
        }
        for span in exporter.get_finished_spans()
    ]

asyncio.run(main())
"""

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.grpc import GRPCIntegration
from sentry_sdk.transport import Transport

envelopes = []

class Collecting(Transport):
    def capture_envelope(self, envelope):
        envelopes.append(envelope)

def prepare():
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Collecting,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[GRPCIntegration()],
    )

async def on_get(key):
    with sentry_sdk.start_span(op="store", name="get"):
        await asyncio.sleep(0)
        return IoContext.current().name

def seen():
    sentry_sdk.flush()
    payloads = [item.payload.json for envelope in envelopes for item in envelope.items]
    return [
        {
            "type": payload.get("type", "event"),
            "name": payload.get("transaction"),
            "trace": payload["contexts"]["trace"]["trace_id"],
            "parent": payload["contexts"]["trace"].get("parent_span_id"),
            "spans": [span["description"] for span in payload.get("spans", [])],
            "exception": [each["value"] for each in payload.get("exception", {}).get("values", [])],
        }
        for payload in payloads if payload and "contexts" in payload
    ]

asyncio.run(main())
"""


def run(client: ClientProcess, package: str, kind: str, *calls: tuple[str, dict[str, Any], Any]) -> Any:
    """Runs a server, calls it, and gives what it has seen and warned of, and the outcomes."""
    command = [sys.executable, "-c", PROGRAM + package, str(generated), kind]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        target = f"127.0.0.1:{process.stdout.readline().strip()}"
        outcomes = [
            client.start(target, method, probe_pb2.Note(**fields).SerializeToString(), metadata=metadata).done.result(
                TIMEOUT
            )
            for method, fields, metadata in calls
        ]
        out, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    told = json.loads(out)
    return told["seen"], told["warnings"], outcomes


TRACEPARENT = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


def test_opentelemetry_spans_the_call_and_what_it_calls_in_other_modules(client: ClientProcess) -> None:
    seen, warnings, outcomes = run(client, OPENTELEMETRY, "usual", (ASK, {"text": "x"}, TRACEPARENT))
    assert probe_pb2.Note.FromString(outcomes[0].reply).text == "store"
    inner, outer = seen
    assert (outer["name"], outer["trace"], outer["parent"]) == (ASK, TRACE, PARENT)
    assert (inner["name"], inner["trace"], inner["parent"]) == ("get", TRACE, outer["id"])
    assert outer["status"] == 0
    assert warnings == []


def test_opentelemetry_sees_errors_aborts_and_streams(client: ClientProcess) -> None:
    calls: list[Any] = [(ASK, {"text": "fail"}, ()), (ASK, {"text": "abort"}, ()), (WATCH, {"number": 1}, ())]
    seen, _, outcomes = run(client, OPENTELEMETRY, "usual", *calls)
    assert [outcome.code for outcome in outcomes[:2]] == ["UNKNOWN", "NOT_FOUND"]
    # A call that aborts is answered before its handler has ended.
    aborted, failed, streamed = sorted(seen, key=lambda span: (span["name"], -(span["status"] or 0)))
    assert failed["name"] == aborted["name"] == ASK
    assert set(failed["events"]) == {"exception"}
    assert aborted["status"] == 5
    assert (streamed["name"], streamed["events"]) == (WATCH, [])


def test_sentry_has_a_transaction_of_the_call_and_spans_of_other_modules(client: ClientProcess) -> None:
    header = (("sentry-trace", f"{TRACE}-{PARENT}-1"),)
    seen, warnings, outcomes = run(client, SENTRY, "usual", (ASK, {"text": "x"}, header))
    assert outcomes[0].code == "OK"
    assert seen == [
        {"type": "transaction", "name": ASK, "trace": TRACE, "parent": PARENT, "spans": ["get"], "exception": []}
    ]
    assert warnings == []


def test_sentry_hears_of_errors_and_not_of_aborts(client: ClientProcess) -> None:
    calls: list[Any] = [(ASK, {"text": "fail"}, ()), (ASK, {"text": "abort"}, ())]
    seen, _, outcomes = run(client, SENTRY, "usual", *calls)
    assert [outcome.code for outcome in outcomes] == ["UNKNOWN", "NOT_FOUND"]
    assert [event["exception"] for event in seen if event["type"] == "event"] == [["on purpose"]]


@pytest.mark.parametrize("package", [OPENTELEMETRY, SENTRY], ids=["opentelemetry", "sentry"])
@pytest.mark.parametrize("kind", ["late", "without grpcio"])
def test_a_server_that_was_not_made_through_the_instrumentation_says_so_when_it_starts(
    client: ClientProcess, package: str, kind: str
) -> None:
    seen, warnings, outcomes = run(client, package, kind, (ASK, {"text": "abort"}, ()))
    assert outcomes[0].code == "NOT_FOUND"
    assert seen == []
    (warning,) = warnings
    assert "has replaced grpc.aio.server, and this server was not made through it" in warning
    assert "instrument first and make the server by rpc.server() then, or pass the interceptor" in warning
