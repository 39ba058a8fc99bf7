"""Tokens are found nowhere but where they belong: a service as a process of its own, used and misused."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import grpc

from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, register_request, registration, stream_of
from tests.service.running import ServiceProcess


def test_neither_logs_nor_store_nor_metrics_nor_answers_hold_a_token(tmp_path: Path) -> None:
    store, secrets = tmp_path / "store.db", tmp_path / "secrets"
    made = create(f"sqlite:///{store}", "all", list(Scope), None)[0]
    secrets.mkdir()
    (secrets / "write").write_text(mounted := "mounted-" + "x" * 32)
    wrong = "smt_" + "wrong" * 8
    service = ServiceProcess(store, "--tokens-directory", str(secrets))
    try:
        client, said = service.client, []
        for token in (made, mounted, wrong):
            metadata = (("authorization", f"Bearer {token}"),)
            with contextlib.suppress(grpc.RpcError):
                client.stub.RegisterRun(register_request(registration("run")), timeout=60, metadata=metadata)
            try:
                said += map(
                    str, client.stub.Report(iter(stream_of("run", [observed(1)])), timeout=60, metadata=metadata)
                )
            except grpc.RpcError as error:
                said.append(str(error))
            with contextlib.suppress(grpc.RpcError):
                client.stub.ListRuns(pb.ListRunsRequest(), timeout=60, metadata=metadata)
            for path in ("/metrics", "/", "/runs/run", "/api/v1/runs/run", "/readyz"):
                answer = client.http.get(path, headers={"Authorization": f"Bearer {token}"})
                said.append(answer.text + str(answer.headers))
            answer = client.http.post("/login", data={"token": token})
            said.append(answer.text + str(answer.headers))
        said.append(Path(f"/proc/{service.process.pid}/cmdline").read_text())
        assert service.signal(signal.SIGTERM) == 0
    finally:
        logged = service.close()
    assert "refused: 127.0.0.1" in logged
    written = b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    for token in (made, mounted, wrong):
        assert token.encode() not in written
        assert token not in logged + "".join(said)
