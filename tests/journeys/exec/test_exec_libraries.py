"""``zhcache exec`` and what is imported: libraries work in the fork, and are those python would find.

Where they cannot be, the script is refused and not run with others.
"""

# ruff: noqa: E501 - scripts are read best in one piece
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from harness.sidebyside import Pair

pytestmark = pytest.mark.journey


# --- after the fork -------------------------------------------------------------------------------

WORK = """
import torch, numpy
torch.manual_seed(0)
a = torch.randn(600, 600)
x = torch.randn(2, 16, 64, 64)
w = torch.randn(16, 16, 3, 3)
for threads in (2, 1):
    torch.set_num_threads(threads)
    print(threads, torch.get_num_threads(), (a @ a).sum().item(),
          torch.nn.functional.conv2d(x, w).sum().item())
b = a.numpy()
print(numpy.allclose(b @ b, (a @ a).numpy(), atol=1e-3), numpy.linalg.svd(b[:50, :50])[1][0])
layer = torch.nn.Linear(64, 64)
layer(torch.randn(8, 64)).sum().backward()
print(layer.weight.grad.sum().item(), torch.randn(2).tolist())
"""


@pytest.mark.slow
def test_tensors_are_worked_on_by_as_many_threads(pair: Pair) -> None:
    told = "import torch; print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.__config__.parallel_info().split('std::')[0])\n"
    pair.same(pair.script(told + WORK))


def test_thread_count_of_the_environment_counts(pair: Pair) -> None:
    pair.same(pair.script(WORK), env={"OMP_NUM_THREADS": "1"})


def test_torch_workers_and_loaders(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import torch\nfrom torch.utils.data import DataLoader\n"
            "if __name__ == '__main__':\n"
            "    for how in ('fork', 'spawn'):\n"
            "        loader = DataLoader(list(range(8)), 4, num_workers=2, multiprocessing_context=how)\n"
            "        print(how, [b.tolist() for b in loader])"
        )
    )


@pytest.mark.slow
def test_compiled_code_is_equal(pair: Pair) -> None:
    script = pair.script(
        "import torch\ntorch.manual_seed(1)\n"
        "f = torch.compile(lambda x: torch.nn.functional.gelu(x) * 2 + x.sin())\n"
        "x = torch.randn(64, 64)\nprint(torch.allclose(f(x), torch.nn.functional.gelu(x) * 2 + x.sin(), atol=1e-4))"
    )
    real, ours = pair.both(script, env={"TORCHINDUCTOR_CACHE_DIR": str(pair.folder / "cache")})
    assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout)


def test_a_pipeline_gives_the_same_image(pair: Pair, pipeline_dir: Path) -> None:
    script = pair.script(
        "import sys, torch, hashlib\nfrom diffusers import StableDiffusionPipeline\n"
        "pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)\n"
        "image = pipe('a lake', num_inference_steps=2, height=64, width=64,\n"
        "             generator=torch.Generator().manual_seed(5)).images[0]\n"
        "print(image.size, hashlib.sha256(image.tobytes()).hexdigest())"
    )
    # Progress bars on stderr tell the time.
    real, ours = pair.both(script, str(pipeline_dir))
    assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout)
    assert ours.stdout.startswith(b"(64, 64)")


def test_cuda_is_as_it_is_under_python(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import os, torch\nprint(torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork())\n"
            "print(torch.cuda.is_available(), torch.cuda.device_count())\n"
            "print(os.environ.get('PYTORCH_NVML_BASED_CUDA_CHECK'))\n"
            "if torch.cuda.is_available(): print(torch.ones(3, device='cuda').sum().item())"
        )
    )


MULTIPROCESSING = """
import multiprocessing as mp, os, sys
def work(n):
    return n * n, mp.current_process().name, __name__
if __name__ == "__main__":
    for how in ("fork", "spawn", "forkserver"):
        with mp.get_context(how).Pool(2) as pool:
            print(how, sorted({r[0] for r in pool.map(work, range(6))}))
    p = mp.Process(target=os._exit, args=(3,)); p.start(); p.join(); print(p.exitcode)
    pid = os.fork()
    if pid == 0:
        print("child"); sys.exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), mp.process.ORIGINAL_DIR == os.getcwd())
"""


def test_processes_of_each_kind(pair: Pair) -> None:
    pair.same(pair.script(MULTIPROCESSING))


def test_threads_and_executors(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import asyncio, threading\n"
            "from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor\n"
            "with ThreadPoolExecutor(4) as t: print(sum(t.map(lambda n: n, range(100))))\n"
            "if __name__ == '__main__':\n"
            "    with ProcessPoolExecutor(2) as p: print(list(p.map(abs, [-1, -2])))\n"
            "    print(asyncio.run(asyncio.sleep(0, 5)), threading.main_thread().name)"
        )
    )


def test_no_two_scripts_draw_the_same_random_numbers(pair: Pair) -> None:
    code = (
        "import random, numpy, torch, uuid, os, secrets, multiprocessing as m, tempfile\n"
        "print(random.random(), numpy.random.rand(), torch.rand(1).item(), torch.initial_seed(), uuid.uuid4(), bytes(m.current_process().authkey),\n"
        "      next(tempfile._get_candidate_names()))"
    )
    first, second = (pair.run(pair.zhcache, ["-c", code]).stdout.split() for _ in range(2))
    assert [a for a, b in zip(first, second, strict=True) if a == b] == []


def test_torch_draws_what_it_draws_under_python(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import torch; torch.manual_seed(3); print(torch.initial_seed()); print(torch.rand(2))"
        )
    )


# --- what python would find -----------------------------------------------------------------------


def test_a_module_beside_the_script_comes_first(pair: Pair) -> None:
    (pair.folder / "tqdm.py").write_text("mine = True")
    (pair.folder / "json").mkdir()
    (pair.folder / "json" / "__init__.py").write_text("mine = True")
    (pair.folder / "numpy").mkdir()
    pair.same(
        pair.script("import json, tqdm, decimal; print(json.mine, tqdm.mine, decimal.__file__)")
    )
    # A folder that is no package shadows nothing.
    shutil.rmtree(pair.folder / "json")
    (pair.folder / "tqdm.py").unlink()
    pair.same(pair.script("import numpy; print(numpy.__file__)"))


def test_another_diffusers_on_the_path_comes_first(pair: Pair) -> None:
    package = pair.folder / "src" / "diffusers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import torch, transformers\n__version__ = 'mine'")
    pair.same(pair.script("import sys; sys.path.insert(0, 'src')\nimport diffusers\n"
                          "from transformers import CLIPTextModel\nprint(diffusers.__version__)"))  # fmt: skip


def test_a_module_that_a_library_would_have_found_is_refused(pair: Pair) -> None:
    (pair.folder / "numpy.py").write_text("mine = True")
    ours = pair.run(
        pair.zhcache, [pair.script("print('before', flush=True)\nimport torch\nprint('never')")]
    )
    assert (ours.returncode, ours.stdout) == (2, b"before\n")
    assert b"numpy" in ours.stderr and b"python" in ours.stderr


def test_a_variable_that_the_source_sets_counts(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import os\nos.environ['HF_ENDPOINT'] = 'https://hub.example'\n"
            "os.environ.setdefault('OMP_NUM_THREADS', '1')\n"
            "import torch, huggingface_hub\n"
            "print(huggingface_hub.constants.ENDPOINT, torch.get_num_threads())"
        )
    )


def test_a_variable_that_is_computed_is_refused_and_never_ignored(pair: Pair) -> None:
    text = (
        "import os\nos.environ['HF_' + 'ENDPOINT'] = 'https://hub.example'\nprint('before', flush=True)\n"
        "try:\n    import huggingface_hub.constants\nexcept BaseException:\n    pass\nprint('never')"
    )
    ours = pair.run(pair.zhcache, [pair.script(text)])
    assert (ours.returncode, ours.stdout) == (2, b"before\n")
    assert b"HF_ENDPOINT" in ours.stderr


def test_a_variable_set_after_the_import_or_read_later_is_no_matter(pair: Pair) -> None:
    pair.same(
        pair.script(
            "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = str(0)\nos.environ['MINE'] = str(1)\n"
            "import torch\nos.environ['OMP_NUM_' + 'THREADS'] = '1'\nimport diffusers\nprint(torch.get_num_threads())"
        )
    )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_another_environment_is_said_and_not_used(pair: Pair, name: str) -> None:
    ours = pair.run(pair.zhcache, ["-c", "print('never')"], env={name: str(pair.folder)})
    assert (ours.returncode, ours.stdout) == (2, b"")
    assert str(pair.folder).encode() in ours.stderr and name.encode() in ours.stderr
    assert pair.run(pair.zhcache, ["-c", "print(1)"], env={name: sys.prefix}).stdout == b"1\n"


def test_script_that_names_another_environment_is_refused(pair: Pair) -> None:
    (pair.folder / "env" / "bin").mkdir(parents=True)
    (pair.folder / "env" / "pyvenv.cfg").touch()
    first = f"#!{pair.folder}/env/bin/python\n"
    ours = pair.run(pair.zhcache, [pair.script(first + "print('never')")])
    assert (ours.returncode, ours.stdout) == (2, b"")
    assert b"first line" in ours.stderr
    pair.same(pair.script("#!/usr/bin/env python3\nprint(1)"))


@pytest.mark.parametrize("lacking", ["torch", "diffusers"])
def test_library_that_cannot_be_imported_is_told(pair: Pair, lacking: str) -> None:
    (pair.folder / "lib").mkdir()
    (pair.folder / "lib" / f"{lacking}.py").write_text(
        "raise OSError('no such library: libfoo.so')"
    )
    ours = pair.run(
        pair.zhcache, ["-c", "print('never')"], env={"PYTHONPATH": str(pair.folder / "lib")}
    )
    assert (ours.returncode, ours.stdout) == (1, b"")
    assert lacking.encode() in ours.stderr and b"libfoo.so" in ours.stderr
    assert b"Traceback" not in ours.stderr


def test_options_of_python_are_not_taken(pair: Pair) -> None:
    ours = pair.run(pair.zhcache, ["-O", "script.py"])
    assert ours.returncode == 2
    assert pair.run(pair.zhcache, ["-m"]).returncode == 2


def test_too_many_descriptors_are_refused(pair: Pair) -> None:
    fds = [os.dup(0) for _ in range(70)]
    try:
        ours = pair.run(pair.zhcache, ["-c", "print('never')"], pass_fds=fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert (ours.returncode, ours.stdout) == (2, b"")
    assert b"descriptors" in ours.stderr
