"""Random lives of a store against a model.

Nothing leased or referenced is lost, nothing else stays.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from harness.storekit import GRACE, Clock, manifest_of, open_store, promise_of, publish, put, sha256
from zhcache.errors import Busy, NotFound, UsageError
from zhcache.protocol.names import parse_repo

REPOS = [parse_repo("lab/one"), parse_repo("lab/two")]
COMMITS = ["1" * 40, "2" * 40]
CONTENTS = [b"a" * 10, b"b" * 200, b"", b"shared", b"d" * 70]

repos = st.sampled_from(REPOS)
commits = st.sampled_from(COMMITS)
contents = st.sampled_from(CONTENTS)
partly = st.lists(contents, min_size=1, max_size=3, unique=True)


class StoreMachine(RuleBasedStateMachine):
    """The model: snapshots, refs, leases, pins, and for each other blob since when it is unused."""

    leases = Bundle("leases")

    def __init__(self):
        super().__init__()
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="zhcache-test-", dir=base))
        self.clock = Clock()
        self.store = open_store(self.folder / "store", self.clock)
        self.snapshots = {}
        self.complete = set()
        self.refs = {}
        self.live = {}
        self.pins = set()
        self.since = {}
        self.held = set()
        self.partial = {}

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)

    def referenced(self):
        return {c for files in self.snapshots.values() for c in files.values()}

    def here(self):
        return self.referenced() | set(self.since)

    @rule(content=contents, git=st.booleans(), hold=st.booleans())
    def fetch(self, content, git, hold):
        if self.store.presence.find(promise_of(content)) is None:
            put(self.store, content, git=git, keep_hold=hold)
            self.partial.pop(promise_of(content, git=git).key, None)
            self.since[content] = self.clock.mono
            if hold:
                self.held.add(content)
            else:
                self.held.clear()

    @rule(content=contents)
    def fetch_half(self, content):
        if content in self.here() or not content:
            return
        ingest = self.store.intake.begin(promise_of(content), "job")
        ingest.write(0, content[: len(content) // 2], "hub")
        ingest.sync()
        ingest.close()
        self.partial[ingest.key] = content

    @rule()
    def end_job(self):
        self.store.leases.release_holds("job")
        self.held.clear()

    @rule(repo=repos, commit=commits, some=partly, ref=st.sampled_from(["main", "dev", None]))
    def publish(self, repo, commit, some, ref):
        files = {f"{c[:1].hex() or 'empty'}.bin": c for c in some}
        here = self.here()  # of these nothing is fetched, so that an old partial stays
        publish(self.store, files, repo=repo, commit=commit, ref=ref)
        self.partial = {k: c for k, c in self.partial.items() if c in here or c not in some}
        whole = {**self.snapshots.get((repo, commit), {}), **files}
        if set(files) == set(whole):
            self.complete.add((repo, commit))
        elif set(self.snapshots[repo, commit]) != set(whole):
            self.complete.discard((repo, commit))
        self.snapshots[repo, commit] = whole
        if ref:
            self.refs[repo, ref] = commit
        for content in some:
            self.since.pop(content, None)
        self.held -= set(some)  # ``publish`` of the tests ends the job's holds
        if self.store.leases.held():
            self.held = {c for c in CONTENTS if sha256(c) in self.store.leases.held()}

    @rule(repo=repos, commit=commits, target=leases)
    def lease(self, repo, commit):
        try:
            lease = self.store.leases.grant(repo, commit, uid=1, pid=os.getpid())
        except NotFound:
            assert (repo, commit) not in self.snapshots
            return None
        self.live[lease] = (repo, commit)
        return lease

    @rule(lease=leases)
    def end_lease(self, lease):
        if lease is not None:
            assert self.store.leases.end(lease) == (lease in self.live)
            self.live.pop(lease, None)

    @rule(repo=repos, commit=st.none() | commits)
    def remove(self, repo, commit):
        doomed = [k for k in self.snapshots if k[0] == repo and commit in (None, k[1])]
        try:
            self.store.remove(repo, commit)
        except NotFound:
            assert not doomed
            return
        except UsageError:
            assert repo in self.pins
            return
        except Busy:
            assert set(doomed) & set(self.live.values())
            return
        assert doomed
        assert repo not in self.pins
        assert not set(doomed) & set(self.live.values())
        before = self.referenced()
        for key in doomed:
            del self.snapshots[key]
            self.complete.discard(key)
            self.refs = {k: c for k, c in self.refs.items() if (k[0], c) != key}
        for content in before - self.referenced():
            self.since[content] = float("-inf")  # released: the next collection frees it

    @rule(repo=repos)
    def pin(self, repo):
        with contextlib.suppress(NotFound):
            self.store.pins.pin(repo, 7)
            self.pins.add(repo)

    @rule(repo=repos)
    def unpin(self, repo):
        self.store.pins.unpin(repo, 7, may_all=False)
        self.pins.discard(repo)

    @rule(seconds=st.sampled_from([1.0, GRACE / 2, GRACE]))
    def wait(self, seconds):
        self.clock.pass_s(seconds)

    @rule(years=st.sampled_from([-3, 10]))
    def wall_clock_jumps(self, years):
        self.clock.now += years * 365 * 86400

    @rule()
    def collect(self):
        may_go = {
            content
            for content, since in self.since.items()
            if content not in self.held and self.clock.mono - since >= GRACE
        }
        report = self.store.gc()
        gone = {item.name for item in report.removed if item.kind == "blob"}
        assert gone == {sha256(content) for content in may_go}
        for content in may_go:
            del self.since[content]
        for item in report.removed:
            if item.kind == "ingest":
                del self.partial[item.name]

    @rule(lose_index=st.booleans())
    def restart(self, lose_index):
        self.store.close()
        if lose_index:
            for path in (self.folder / "store").glob("index.sqlite*"):
                path.unlink()
            self.live.clear()
            self.since = dict.fromkeys(self.since, self.clock.mono)
        self.held.clear()
        self.store = open_store(self.folder / "store", self.clock)

    @rule()
    def rebuild(self):
        self.store.rebuild()
        self.since = dict.fromkeys(self.since, self.clock.mono)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def read_a_snapshot(self, data):
        repo, commit = data.draw(st.sampled_from(sorted(self.snapshots)))
        folder = self.store.view.snapshot_dir(repo, commit)
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert found == self.snapshots[repo, commit]
        assert self.store.publish(manifest_of(found, repo=repo, commit=commit), None) == folder
        self.complete.add((repo, commit))

    @invariant()
    def store_equals_model(self):
        blobs = {name for name, _ in self.store.blobs.list()}
        assert blobs == {sha256(content) for content in self.here()}
        shown = {(s.repo, s.commit): s for s in self.store.snapshots()}
        assert set(shown) == {(str(repo), commit) for repo, commit in self.snapshots}
        whole = {key for key, s in shown.items() if s.complete}
        assert whole == {(str(repo), commit) for repo, commit in self.complete}
        refs = {(r, name): c for (r, c), s in shown.items() for name in s.revisions}
        assert refs == {(str(repo), name): c for (repo, name), c in self.refs.items()}
        assert {r for (r, _), s in shown.items() if s.pinned} == {
            str(r) for r in self.pins if (str(r)) in {k[0] for k in shown}
        }
        assert set(os.listdir(self.store.layout.ingests)) == set(self.partial)


StoreMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStoreMachine = StoreMachine.TestCase
