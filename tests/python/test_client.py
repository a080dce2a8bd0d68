"""A client in another language: generated from the contract at run time, against the real binary.

    scripts/test.sh, or: python tests/python/test_client.py target/release/equipoise

Prints `N passed, N failed` at the end and exits with 1 when a test failed.
"""

import contextlib
import importlib
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTRACT = "equipoise/v1/accounts.proto"
SERVICE = "equipoise.v1.AccountService"


def generate(into):
    """Compiles the contract as any user would, and imports what comes of it."""
    standard = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{standard}", f"--python_out={into}", f"--grpc_python_out={into}"]
    if protoc.main([*arguments, CONTRACT]) != 0:
        sys.exit("error: the contract does not compile")
    sys.path.insert(0, into)
    names = ("equipoise.v1.accounts_pb2", "equipoise.v1.accounts_pb2_grpc")
    return [importlib.import_module(name) for name in names]


@contextlib.contextmanager
def serving(binary):
    """The service on a free port; ends with it, within five seconds of SIGTERM and with exit code 0 (E4)."""
    command = [binary, "serve", "--in-memory", "--listen", "127.0.0.1:0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = []
    listening = threading.Event()

    def read():
        for line in service.stderr:
            log.append(line)
            if line.startswith("listening on "):
                listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(10), f"the service did not start: {log}"
        address = next(line.split()[-1] for line in log if line.startswith("listening on "))
        yield address, log
        service.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert service.wait(timeout=5) == 0, f"exit code {service.returncode}"
        print(f"the service ended {time.monotonic() - started:.2f} s after SIGTERM")
    finally:
        service.kill()
        service.wait()
        reader.join()


class Tests:
    """One method a behaviour; accounts are named after it, so that they do not meet."""

    def __init__(self, messages, stubs, address, log):
        self.pb = messages
        self.channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self.stub = stubs.AccountServiceStub(self.channel)
        self.log = log

    def create(self, account, balance=0, transaction=""):
        request = self.pb.CreateAccountRequest(
            account_id=account, initial_balance=balance, transaction_id=transaction
        )
        return self.stub.CreateAccount(request, timeout=10)

    def balance(self, account):
        return self.stub.GetBalance(self.pb.GetBalanceRequest(account_id=account), timeout=10)

    def update(self, account, delta, transaction=None):
        transaction = str(uuid.uuid4()) if transaction is None else transaction
        request = self.pb.UpdateBalanceRequest(account_id=account, delta=delta, transaction_id=transaction)
        return self.stub.UpdateBalance(request, timeout=10)

    def transfer(self, source, target, amount, transaction=None):
        transaction = str(uuid.uuid4()) if transaction is None else transaction
        request = self.pb.TransferFundsRequest(
            from_account_id=source, to_account_id=target, amount=amount, transaction_id=transaction
        )
        return self.stub.TransferFunds(request, timeout=10)

    @staticmethod
    def refused(call, code, text, reason=None, **metadata):
        """The call fails with exactly this; returns its google.rpc details by type."""
        try:
            answer = call()
        except grpc.RpcError as error:
            assert error.code() == code, f"{error.code()}: {error.details()}"
            assert error.details() == text, f"{error.details()!r} instead of {text!r}"
            status = rpc_status.from_call(error)
            assert status is not None, "no google.rpc.Status"
            details = {}
            for packed in status.details:
                for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                    if packed.Is(kind.DESCRIPTOR):
                        details[kind.__name__] = kind()
                        packed.Unpack(details[kind.__name__])
            info = details["ErrorInfo"]
            assert info.domain == "equipoise"
            assert reason is None or info.reason == reason, info.reason
            assert metadata.items() <= dict(info.metadata).items(), dict(info.metadata)
            return details
        raise AssertionError(f"answered {answer!r}")

    def test_a7_two_accounts_and_a_transfer(self):
        opened = self.create("a7/alice", 100)
        assert (opened.account.balance, opened.account.version, opened.replayed) == (100, 1, False)
        self.create("a7/bob", 200)
        moved = self.transfer("a7/alice", "a7/bob", 50)
        assert (moved.from_balance, moved.to_balance) == (50, 250)
        assert (moved.from_version, moved.to_version) == (2, 2)
        assert moved.sequence > opened.account.sequence and not moved.replayed
        assert abs(moved.commit_time.seconds - time.time()) < 60
        read = self.balance("a7/bob")
        assert (read.balance, read.version, read.sequence) == (250, 2, moved.sequence)

    def test_a3_unknown_accounts(self):
        text = "Account a3/nobody not found"
        for call in (
            lambda: self.balance("a3/nobody"),
            lambda: self.update("a3/nobody", 1),
            lambda: self.transfer("a3/nobody", "a3/nobody else", 1),
        ):
            self.refused(
                call, grpc.StatusCode.NOT_FOUND, text, "ACCOUNT_NOT_FOUND", account_id="a3/nobody"
            )

    def test_a2_a13_refusals_of_creates(self):
        negative = "Initial balance cannot be negative"
        details = self.refused(lambda: self.create("a2/x", -1), grpc.StatusCode.INVALID_ARGUMENT, negative)
        assert details["BadRequest"].field_violations[0].field == "initial_balance"
        self.create("a2/x", 0)
        exists = "Account a2/x already exists"
        self.refused(
            lambda: self.create("a2/x", 0), grpc.StatusCode.ALREADY_EXISTS, exists, "ACCOUNT_ALREADY_EXISTS"
        )

    def test_a6_a7_refusals_for_want_of_funds(self):
        self.create("a6/poor", 10)
        self.create("a6/rich", 1000)
        short = "Insufficient balance: current=10, delta=-11"
        failed = grpc.StatusCode.FAILED_PRECONDITION
        self.refused(lambda: self.update("a6/poor", -11), failed, short, "INSUFFICIENT_BALANCE", current="10")
        short = "Insufficient balance in account a6/poor: current=10, required=50"
        self.refused(
            lambda: self.transfer("a6/poor", "a6/rich", 50), failed, short, "INSUFFICIENT_BALANCE", required="50"
        )
        same = "Cannot transfer to the same account"
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.refused(lambda: self.transfer("a6/poor", "a6/poor", 0), invalid, same, "SAME_ACCOUNT")
        positive = "Transfer amount must be positive"
        details = self.refused(lambda: self.transfer("a6/poor", "a6/rich", 0), invalid, positive)
        assert details["BadRequest"].field_violations[0].field == "amount"
        assert (self.balance("a6/poor").balance, self.balance("a6/rich").balance) == (10, 1000)

    def test_a12_ends_of_i64(self):
        most, least = 2**63 - 1, -(2**63)
        self.create("a12/full", most)
        out = f"Balance out of range: current={most}, delta=1"
        failed = grpc.StatusCode.FAILED_PRECONDITION
        self.refused(lambda: self.update("a12/full", 1), failed, out, "BALANCE_OUT_OF_RANGE")
        short = f"Insufficient balance: current={most}, delta={least}"
        self.refused(lambda: self.update("a12/full", least), failed, short)
        assert self.balance("a12/full").balance == most

    def test_b1_an_id_has_its_effect_once(self):
        self.create("b1/alice", 100)
        first = self.update("b1/alice", -30, "b1-once")
        again = self.update("b1/alice", -30, "b1-once")
        assert again.replayed and not first.replayed
        assert (first.new_balance, first.sequence) == (again.new_balance, again.sequence)
        assert self.balance("b1/alice").balance == 70

        short = "Insufficient balance: current=70, delta=-71"
        failed = grpc.StatusCode.FAILED_PRECONDITION
        fresh = self.refused(lambda: self.update("b1/alice", -71, "b1-short"), failed, short)
        assert "replayed" not in fresh["ErrorInfo"].metadata
        self.update("b1/alice", 100)
        self.refused(lambda: self.update("b1/alice", -71, "b1-short"), failed, short, replayed="true")

    def test_b1_an_update_needs_an_id(self):
        self.create("b1/bob", 100)
        try:
            self.update("b1/bob", 1, "")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "transaction_id" in error.details()
        else:
            raise AssertionError("answered")

    def test_b2_ten_callers_with_one_id(self):
        self.create("b2", 0)
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: self.update("b2", 7, "b2-once"), range(10)))
        assert {(answer.new_balance, answer.sequence) for answer in answers} == {(7, answers[0].sequence)}
        assert [answer.replayed for answer in answers].count(False) == 1
        assert self.balance("b2").balance == 7

    def test_b3_an_id_with_other_parameters(self):
        self.create("b3", 100)
        self.update("b3", 5, "b3-id")
        for call, field in (
            (lambda: self.update("b3", 6, "b3-id"), "delta"),
            (lambda: self.update("b3 ", 5, "b3-id"), "account_id"),
            (lambda: self.create("b3", 5, "b3-id"), "operation"),
        ):
            try:
                call()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and field in error.details(), error.details()
            else:
                raise AssertionError("answered")

    def test_a14_ids_are_bytes_with_a_limit(self):
        for account in ("é", "e\u0301", "a14 ", " a14", "a14\u200b", "👩\u200d🌾", "%s{}", "../../x", "-5", "x" * 128):
            self.create(account, 1)
            assert self.balance(account).balance == 1
        for account in ("", "x" * 129, "é" * 65, "a\nb", "a\x1b[2J"):
            try:
                self.create(account)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "account_id" in error.details(), repr(account)
            else:
                raise AssertionError(repr(account))
        # Case A09: a status has to fit into trailers, also for a client that takes 8 KB of them.
        try:
            self.balance("x" * 20_000)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.code()
        percent = "a14/100 % é"
        self.refused(lambda: self.balance(percent), grpc.StatusCode.NOT_FOUND, f"Account {percent} not found")

    def test_a5_concurrent_updates(self):
        self.create("a5", 1000)
        with ThreadPoolExecutor(20) as pool:
            versions = list(pool.map(lambda _: self.update("a5", 10).version, range(100)))
        assert sorted(versions) == list(range(2, 102)), "each its own version"
        assert self.balance("a5").balance == 2000

    def test_a15_a_chain_is_whole_or_not_at_all(self):
        self.create("a15/a", 0)
        self.create("a15/b", 0)

        def chain(first, second):
            operations = []
            for index, (source, target) in enumerate((first, second)):
                transfer = self.pb.TransferFundsRequest(
                    from_account_id=source, to_account_id=target, amount=50, transaction_id=str(uuid.uuid4())
                )
                operations.append(self.pb.Operation(transfer_funds=transfer, linked=index == 0))
            return self.stub.ExecuteBatch(self.pb.ExecuteBatchRequest(operations=operations), timeout=10).results

        there, back = ("a15/a", "a15/b"), ("a15/b", "a15/a")
        refused = chain(there, back)
        assert refused[0].message == "Insufficient balance in account a15/a: current=0, required=50"
        assert refused[0].code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert refused[1].code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert not refused[0].accounts and not refused[1].accounts
        self.update("a15/a", 50)
        done = chain(there, back)
        assert [result.code for result in done] == [0, 0] and done[0].sequence == done[1].sequence
        assert self.balance("a15/a").balance == 50

    def test_a10_a_snapshot_is_whole(self):
        accounts = [f"a10/{number}" for number in range(10)]
        for account in accounts:
            self.create(account, 1000)
        stop = threading.Event()

        def move():
            number = 0
            while not stop.is_set():
                source, step = number % 10, 1 + number % 9
                self.transfer(accounts[source], accounts[(source + step) % 10], 1)
                number += 1

        with ThreadPoolExecutor(4) as pool:
            moving = [pool.submit(move) for _ in range(4)]
            try:
                for _ in range(20):
                    stream = self.stub.SnapshotBalances(
                        self.pb.SnapshotBalancesRequest(prefix="a10/"), timeout=10
                    )
                    messages = list(stream)
                    assert len({message.sequence for message in messages}) == 1, "one sequence"
                    found = [account for message in messages for account in message.accounts]
                    assert [account.account_id for account in found] == sorted(accounts), "in id order"
                    assert sum(account.balance for account in found) == 10_000
            finally:
                stop.set()
        for moved in moving:
            moved.result()

    def test_pages_are_read_at_one_sequence(self):
        accounts = sorted(f"pages/{number:02}" for number in range(25))
        for account in accounts:
            self.create(account, 1)
        token, found, sequences = "", [], set()
        while True:
            request = self.pb.ListAccountsRequest(prefix="pages/", page_size=10, page_token=token)
            page = self.stub.ListAccounts(request, timeout=10)
            found += [account.account_id for account in page.accounts]
            sequences.add(page.sequence)
            self.update(accounts[0], 1)
            token = page.next_page_token
            if not token:
                break
        assert found == accounts and len(sequences) == 1

    def test_c1_the_journal_by_id_and_as_a_stream(self):
        first = self.create("c1", 5, "c1-create").account.sequence
        self.update("c1", 6, "c1-update")
        with contextlib.suppress(grpc.RpcError):
            self.update("c1", -12, "c1-refused")
        request = self.pb.GetTransactionRequest(transaction_id="c1-refused")
        entry = self.stub.GetTransaction(request, timeout=10).transaction
        assert entry.operation == "update" and entry.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert entry.message == "Insufficient balance: current=11, delta=-12"
        text = "Transaction c1-nothing not found"
        request = self.pb.GetTransactionRequest(transaction_id="c1-nothing")
        self.refused(lambda: self.stub.GetTransaction(request, timeout=10), grpc.StatusCode.NOT_FOUND, text)

        request = self.pb.WatchTransactionsRequest(from_sequence=first, account_id="c1")
        stream = self.stub.WatchTransactions(request, timeout=10)
        seen = []
        for message in stream:
            seen += [transaction.transaction_id for transaction in message.transactions]
            if len(seen) == 3:
                # What is committed from here on comes live.
                self.update("c1", 1, "c1-live")
            if len(seen) >= 4:
                break
        stream.cancel()
        assert seen == ["c1-create", "c1-update", "c1-refused", "c1-live"], seen

    def test_health_and_reflection(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        database = ProtoReflectionDescriptorDatabase(self.channel)
        assert SERVICE in database.get_services()
        found = DescriptorPool(database).FindServiceByName(SERVICE)
        assert {method.name for method in found.methods} == {
            method.name for method in self.pb.DESCRIPTOR.services_by_name["AccountService"].methods
        }

    def test_a13_failures_are_logged_and_cannot_forge_lines(self):
        with contextlib.suppress(grpc.RpcError):
            self.balance("a13\n2026-01-01 ERROR forged\x1b[2J")
        with contextlib.suppress(grpc.RpcError):
            self.balance("a13/nobody")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not any("a13/nobody" in line for line in self.log):
            time.sleep(0.05)
        about = [line for line in self.log if "a13" in line]
        assert any("a13/nobody" in line and "ERROR" in line and "GetBalance" in line for line in about), about
        assert not any(line.startswith("2026-01-01 ERROR forged") or "\x1b" in line for line in self.log)


def main():
    binary = sys.argv[1]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as into:
        messages, stubs = generate(into)
        with serving(binary) as (address, log):
            tests = Tests(messages, stubs, address, log)
            for name in [name for name in dir(Tests) if re.match("test_", name)]:
                try:
                    getattr(tests, name)()
                except Exception:
                    failed += 1
                    print(f"test {name} ... FAILED")
                    traceback.print_exc(file=sys.stdout)
                else:
                    passed += 1
                    print(f"test {name} ... ok")
            tests.channel.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
