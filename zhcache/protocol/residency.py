"""What is said on the handover socket and to workers: tensors, arenas, calls.

Frames (``zhcache.protocol.frames``) carry these. The first frame of a connection is a request,
told apart by ``op``; every frame after it is one of a closed set, told apart by ``event``. Sizes
and offsets are bytes, times are seconds since the epoch. Nothing here is ever a pickle.
"""

from __future__ import annotations

from typing import Any, Literal

from zhcache.protocol.messages import ErrorInfo, Message
from zhcache.protocol.placement import Placed, SeenCall, WeightsList
from zhcache.protocol.prompts import OwnRead
from zhcache.protocol.version import PROTOCOL

ALIGNMENT = 512
"""Bytes; every tensor of an arena starts at a multiple of it, as torch's own allocations do."""

MAX_SMALL_FILES = 512
"""Files of one snapshot that are handed over by descriptor; real pipelines have up to fifty."""

MAX_SMALL_FILE = 64 * 2**20
"""Bytes of one of them; tables of large tokenizers have 30 MiB."""

MAX_SMALL_BYTES = 256 * 2**20
"""Bytes of all of them."""


class Event(Message, tag_field="event", tag=str.lower):
    """Base of what follows a request: told apart by the field ``event``."""


# --- arenas -------------------------------------------------------------------------------------


class Tensor(Message):
    """One tensor of an arena.

    ``dtype`` is torch's name without ``torch.``; ``strides`` count elements. A parameter is used
    in place; a buffer is copied by whoever attaches, since modules write into buffers at run time.
    An attribute is a tensor that a module keeps beside both; it is copied, to the CPU.
    """

    name: str
    dtype: str
    shape: list[int]
    strides: list[int]
    offset: int
    kind: Literal["parameter", "buffer", "attribute"]
    persistent: bool = True


class Wrapped(Message):
    """A quantized parameter: a class of torchao's over plain tensors.

    ``tensors`` maps each of its fields to the name in the table of what lies there. ``dtype`` is
    the one it stands for; ``kernel`` and ``matmul`` are attributes of ``Float8Tensor``,
    ``reduce_range`` is one of ``Int8Tensor``.
    """

    class_name: Literal["Int8Tensor", "Float8Tensor"]
    tensors: dict[str, str]
    dtype: str
    block_size: list[int]
    reduce_range: bool = False
    kernel: str = "AUTO"
    matmul: dict[str, bool] | None = None


class Table(Message):
    """All tensors of one component, by the names its module gives them once it is loaded.

    ``aliases`` maps each tied name to the one in ``tensors`` whose memory it shares. ``versions``
    names the libraries that made the module, since names and buffers differ between them.
    ``dtype`` is what the component was loaded as; single tensors may be wider. ``wrapped`` holds
    by name the parameters that are made of several of ``tensors``; those are not the module's own.
    """

    component: str
    library: str
    class_name: str
    tensors: list[Tensor]
    aliases: dict[str, str] = {}
    versions: dict[str, str] = {}
    dtype: str = "float32"
    wrapped: dict[str, Wrapped] = {}


class Arena(Message):
    """One component's tensors in one piece of memory, whose descriptor comes beside the frame.

    ``device`` is ``cpu`` (a sealed memfd) or a GPU's UUID as NVML spells it (``GPU-...``: a CUDA
    VMM allocation). ``bytes`` is the size of the memory, padding included. ``checksum`` is
    ``zhcache.pipeline.checksum`` of it, empty where the memory is sealed.
    """

    key: str
    device: str
    bytes: int
    table: Table
    checksum: str = ""


class AttachRequest(Message):
    """``op: attach``: the arenas of a leased snapshot on a device, filled first if need be.

    ``damaged`` names arenas whose checksum did not hold at a first try; they are filled anew.
    ``components`` names those that are wanted; None is all that have weights.
    """

    lease: str
    device: str
    damaged: list[str] = []
    components: list[str] | None = None
    op: Literal["attach"] = "attach"
    protocol: int = PROTOCOL


class FilesRequest(Message):
    """``op: files``: what is small of a leased snapshot, for who may not open the store's files."""

    lease: str
    op: Literal["files"] = "files"
    protocol: int = PROTOCOL


# --- residents ----------------------------------------------------------------------------------


Role = Literal["pipeline", "prompts"]
"""What a worker holds: a pipeline, or what reads prompts for others."""


Placement = Literal["replicate", "parallel", "split", "offload", "auto"]
"""What several devices are for: several images at once, one image faster, or one pipeline that is
too large for each. ``auto`` is the first of these, or else the third."""


class ResidentRequest(Message):
    """``op: resident``: a pipeline held by a worker. The connection is the lease.

    ``device`` is ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID. ``options`` are further
    arguments of ``from_pretrained``, encoded as ``zhcache.resident.values`` does. ``memory`` is
    ``auto``, ``low`` or a number of bytes. With the role ``prompts`` the worker holds what reads
    Chinese prompts, on the CPU, and its calls take texts (``zhcache.protocol.prompts``).
    ``devices`` has one entry for each worker, repeats allowed; empty is one worker on ``device``.
    With ``placement`` ``parallel`` they make one image together, and are one worker; with ``split``
    or ``offload`` they are those that one worker may use, where none is named all GPUs.
    """

    repo: str
    revision: str | None = None
    variant: str | None = None
    device: str = "auto"
    options: dict[str, Any] = {}
    attention: str | None = None
    compile: bool = False
    memory: str | None = None
    role: Role = "pipeline"
    devices: list[str] = []
    placement: Placement = "replicate"
    op: Literal["resident"] = "resident"
    protocol: int = PROTOCOL


class Call(Event):
    """Client to daemon to worker: one call of the pipeline.

    ``arguments`` are encoded by ``zhcache.resident.values``; what is not words lies in one sealed
    memfd beside the frame. ``seed`` is one seed or one for each image. ``scheduler`` is a class
    name of diffusers, or an encoded scheduler with a config. ``pipeline`` is another pipeline class
    over the same components. ``conditions``, encoded as well, are embeddings in place of some of
    the texts (``zhcache.chinese.conditions``).
    """

    id: int
    arguments: dict[str, Any]
    seed: int | list[int] | None = None
    wants_steps: bool = False
    scheduler: Any = None
    pipeline: str | None = None
    conditions: Any = None


class Cancel(Event):
    """Client to daemon to worker: the call is no longer wanted."""

    id: int


class Progress(Event):
    """What a request waits for, while it waits. Not about a call.

    ``holders`` are those who have the room that is waited for, in words.
    """

    note: str
    bytes_done: int = 0
    bytes_total: int = 0
    holders: list[str] = []


class Attached(Event):
    """Answer to ``attach``: the arenas, whose descriptors are beside this frame in this order."""

    arenas: list[Arena]


class SmallFile(Message):
    """One file of a snapshot: its path there, and its size in bytes."""

    path: str
    size: int


class SmallFiles(Event):
    """Answer to ``files``: some files, whose descriptors are beside this frame in this order.

    Further frames follow until one ``is_last``. That one names in ``weights`` the paths of the
    files that hold weights: they are not handed over, their tensors are had by ``attach``.
    """

    files: list[SmallFile]
    weights: list[str] = []
    is_last: bool = True


class Opened(Event):
    """Answer to ``resident``: the worker holds the pipeline.

    Of a variant ``commit`` is the one that it was made of. ``devices`` are those of all workers
    where several were asked for; ``device`` is then the first. ``placement`` is the request's, of
    ``auto`` what it came to. ``plan`` says where one worker's components are, if several devices
    have them or the host; ``devices`` are then the GPUs. ``has_one_net`` says that it has one
    ControlNet: a list of images for that has one for each prompt, not one for each net.
    """

    lease: str
    repo: str
    commit: str
    device: str
    class_name: str
    parameters: list[str]
    bytes: int = 0
    variant: str | None = None
    memory_report: str = ""
    devices: list[str] = []
    placement: Placement = "replicate"
    plan: Placed | None = None
    has_one_net: bool = False


class Queued(Event):
    """The call waits behind ``position`` others; 0 is: it runs now."""

    id: int
    position: int


class Step(Event):
    """One step of a running call is done. ``total`` is 0 where it is not known."""

    id: int
    step: int
    total: int
    timestep: float


class Returned(Event):
    """The call's output fields, encoded as its arguments were.

    ``class_name`` is ``tuple`` where the pipeline returned one; its items are then the field
    ``items``. ``generators`` are those of the arguments, in the state the call left them in.
    ``own`` tells of texts that the pipeline's own encoder did not read whole.
    """

    id: int
    class_name: str
    fields: dict[str, Any]
    seconds: float
    generators: list[Any] = []
    own: list[OwnRead] = []


class Failed(Event):
    """A request (``id`` 0) or a call ended with an error."""

    error: ErrorInfo
    id: int = 0


FromClient = Call | Cancel
ToClient = Progress | Attached | SmallFiles | Opened | Queued | Step | Returned | Failed


# --- the daemon's own workers -------------------------------------------------------------------


class Fill(Event):
    """Daemon to a fill worker: load these components of the pipeline in ``folder`` into arenas.

    ``device`` as in ``Arena``. The worker answers with a ``Filled`` for each component, with the
    memory's descriptor beside it, then ends.
    """

    folder: str
    components: list[str]
    device: str


class Filled(Event):
    """One component's arena."""

    bytes: int
    table: Table
    checksum: str = ""


class Load(Event):
    """Daemon to a resident worker: become the pipeline in ``folder``, which is one of ``repo``.

    Arenas, where there are any, come beside this frame in their order; ``artifacts`` says that one
    more descriptor follows them, with what an earlier worker compiled. ``part`` is the worker's
    number among the ``parts`` that share the cores. ``devices`` are those that make one image
    together, ``device`` the first of them; the arenas are then those of them all. ``plan`` says
    where components go: the arenas are those of its GPUs, ``device`` is where the denoiser is.
    ``weights`` comes where ``memory`` does, with what calls were seen to take.
    """

    folder: str
    device: str
    options: dict[str, Any] = {}
    attention: str | None = None
    compile: bool = False
    arenas: list[Arena] = []
    artifacts: bool = False
    variant: str | None = None
    memory: str | None = None
    role: Role = "pipeline"
    repo: str = ""
    part: int = 0
    parts: int = 1
    devices: list[str] = []
    plan: Placed | None = None
    weights: WeightsList | None = None


class Loaded(Event):
    """The resident worker is ready.

    ``memory_report`` says how it was made to fit; ``has_one_net`` as in ``Opened``.
    """

    class_name: str
    parameters: list[str]
    bytes: int
    memory_report: str = ""
    has_one_net: bool = False


class Taken(Event):
    """The resident worker has read the call and begins it; until then another may have it."""

    id: int


class Took(Event):
    """What the running call took of a GPU, from a resident worker; before its answer."""

    id: int
    seen: SeenCall


class Artifacts(Event):
    """What the worker compiled, beside this frame, to be given to the next worker of its kind."""

    key: str
    bytes: int


class Launch(Event):
    """Daemon to the spawner of workers, on a connection that is this worker's life: start one.

    Beside the frame come the worker's line and where its words go. ``build`` is the version of the
    daemon's code: what daemon and worker say to each other is no protocol with a past.
    """

    kind: Literal["fill", "resident", "parallel", "check", "convert"]
    name: str
    build: str


class Launched(Event):
    """The spawner's answer: the worker runs, and is ended when the connection is."""

    pid: int


class Ended(Event):
    """The spawner's last word on a worker: how it ended, to follow "it"."""

    how: str


class Abilities(Event):
    """A ``check`` worker's only word: what workers have there, and what they are not kept from.

    ``parts`` are the versions of what is installed, None where it is not.
    """

    parts: dict[str, str | None]
    lacking: list[str]


FromSpawner = Launched | Ended | Failed
FromFillWorker = Progress | Filled | Failed
ToResidentWorker = Load | Call | Cancel
FromResidentWorker = Progress | Loaded | Taken | Step | Took | Returned | Failed | Artifacts


# --- over HTTP ----------------------------------------------------------------------------------


class WarmRequest(Message):
    """``POST /v1/warm``: a job that makes a held snapshot warm. ``keep`` is seconds, None the
    configuration's ``keep_alive``, 0 until it is stopped.
    """

    repo: str
    revision: str | None = None
    variant: str | None = None
    device: str = "auto"
    mode: Literal["attach", "resident"] = "attach"
    keep: float | None = None


class StopRequest(Message):
    """``POST /v1/unload``: lets what is warm of a repository go."""

    repo: str
    variant: str | None = None
    device: str | None = None
    force: bool = False


class Stopped(Message):
    """What was let go, in bytes of each device."""

    repo: str
    bytes: int
    devices: list[str]
    schema: int = 1
