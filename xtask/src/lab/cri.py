"""cri.py SOCKET: answers each line {"call": NAME, "with": REQUEST} with what the runtime there says to it."""
import json
import sys

import grpc
from cri_api.v1 import api_pb2 as cri, api_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict

# A runtime that starts again is waited for, and found at once.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
runtime = api_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel(f"unix://{sys.argv[1]}", OPTIONS))
for line in sys.stdin:
    asked = json.loads(line)
    request = ParseDict(asked["with"], getattr(cri, asked["call"] + "Request")())
    try:
        said = getattr(runtime, asked["call"])(request, timeout=60, wait_for_ready=True)
        answer = {"answer": MessageToDict(said, preserving_proto_field_name=True)}
    except grpc.RpcError as error:
        answer = {"error": str(error.details())}
    print(json.dumps(answer), flush=True)
