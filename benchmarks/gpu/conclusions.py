"""What follows from which weights give stock's images and which do not. Pure."""

from __future__ import annotations

from collections.abc import Mapping

Equal = Mapping[str, bool]


def conclude(equal: Equal) -> str:
    """Returns the answer to the question of parity, for each outcome that is possible.

    Args:
        equal: For each way that was tried, whether it gave stock's latents and images.
    """
    if not equal["stock, again"]:
        return (
            "**Stock does not equal itself.** Some kernel of this pipeline is not deterministic"
            " here, so no comparison below it means anything. Run again with"
            " torch.use_deterministic_algorithms(True) and CUBLAS_WORKSPACE_CONFIG=:4096:8; parity"
            " can then be claimed under that setting only."
        )
    if equal["arena, aligned"] and equal["arena, aligned, modules made anew"]:
        return _equal(equal)
    if not equal["torch's memory, aligned"]:
        return (
            "**The layout changes the result even in torch's own memory, aligned.** So it is"
            " neither the arena's kind of memory nor alignment to 512 bytes. Look at the module"
            " above: a tensor may lie wrong (compare it with stock's by value), a stride may be"
            " lost (channels_last), or a tied weight be untied. A defect of the layout: mend it,"
            " claim nothing before."
        )
    if not equal["arena, aligned"]:
        return _memory(equal)
    return (
        "**Equal, until the modules are made anew from their configuration.** The weights are not"
        " the cause: the skeleton is. The module named above differs in something that is neither"
        " parameter nor buffer in the files: an attention implementation chosen at from_pretrained,"
        " a non-persistent buffer computed in another precision, train() instead of eval(). Attach"
        " has to copy it from a really loaded module; the table says which."
    )


def _equal(equal: Equal) -> str:
    packed = (equal["torch's memory, packed"], equal["arena, packed"])
    answer = "**Aligned arenas give stock's images bit for bit.** Parity may be claimed as such. "
    if packed == (False, False):
        return answer + (
            "Packed weights do not, in torch's own memory neither, so the 3e-6 of the first proof"
            " was alignment: it mapped the files' packed layout, cuBLASLt and cuDNN are told how a"
            " pointer is aligned and choose their kernels by it, and other kernels add in another"
            " order. The 512 bytes of every arena must stay."
        )
    if packed == (True, True):
        return answer + (
            "So do packed ones, and modules made anew: none of the three things that set the first"
            " proof apart makes a difference here. On a CPU that says nothing of a GPU. On a GPU"
            " the 3e-6 is not to be had with these versions; try the first proof's (torch 2.11)"
            " before it is called gone. The 512 bytes cost nothing and stay, as the choice of"
            " kernel differs between GPUs and library versions."
        )
    return answer + (
        "Packed ones differ in only one of the two kinds of memory, which alignment alone cannot"
        " explain: the base of that memory is aligned otherwise. Print data_ptr() of the first"
        " tensor of each; above 512 bytes nothing is known to matter."
    )


def _memory(equal: Equal) -> str:
    answer = (
        "**An aligned arena differs where torch's memory, laid the same, does not.** So it is the"
        " kind of memory. "
    )
    if equal.get("arena, aligned, writable", False):
        return answer + (
            "Mapped for writing it is equal: some kernel asks for what a read-only mapping does"
            " not have. Map as writable under share='uid', where nobody else is endangered, and"
            " keep read-only for 'group' with parity to within the difference above."
        )
    return answer + (
        "Mapped for writing it differs as well. The kernels above show which library looks at the"
        " allocation itself (cuPointerGetAttribute, memory type, a pool). Until that is avoided,"
        " say 'equal to within' the difference above, and offer zhcache.make_private(pipeline),"
        " which copies into torch's memory and is equal."
    )
