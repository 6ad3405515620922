"""Memory settings per program, `--memory auto`: what fits, kept in the sweep's directory for all workers."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from etils import epath

from capscale.artifacts import check_seal, digest, sealed
from capscale.checks import check_whole
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.files import is_there, read_json, refuse_link, write_json
from capscale.storage import make_directory
from capscale.sweep.choosing import remedy_here, shared_by
from capscale.sweep.directory import MEMORY
from capscale.sweep.display import run_name
from capscale.sweep.preflight import Compiled, Setting, compile_step
from capscale.sweep.slices import Place
from capscale.train.distributed import any_process, is_first, numbers_of_first
from capscale.train.memory import Memory
from capscale.train.progress import peak_of
from capscale.train.run import Run
from capscale.train.sharding import slice_of

SCHEMA = 1
_GATHERS = ("layer", "step", "codes")


@dataclass(frozen=True)
class Here:
    """The devices of this process, and of those that train with it.

    Attributes:
      given: bytes of memory of a device, for those that do not tell it, or are to be used in part.
    """

    given: int | None = None

    def __post_init__(self):
        check_whole(self, "given", least=1, most=2**60, optional=True)

    @property
    def name(self) -> str:
        """Number and kind of the devices."""
        return f"{len(self.devices())} x {self.devices()[0].device_kind}"

    @property
    def flags(self) -> str:
        """Nothing: it takes no option to be here."""
        return ""

    @property
    def count(self) -> int:
        """Number of TPU slices, 1 for other devices."""
        return len({slice_of(device) for device in self.devices()})

    @property
    def peak(self) -> float | None:
        """FLOP/s of all devices, where it is known."""
        return peak_of(len(self.devices()))

    @property
    def larger(self) -> list[Place]:
        """None: there are no others here."""
        return []

    @property
    def is_here(self) -> bool:
        """True: steps can be run on it."""
        return True

    def devices(self) -> list[Any]:
        """All devices of all processes."""
        return jax.devices()

    def memory(self) -> int:
        """Bytes of memory of a device; `UserError` where it is neither given nor told."""
        if self.given is not None:
            return self.given
        told = jax.local_devices()[0].memory_stats()
        if not told or "bytes_limit" not in told:
            raise UserError(
                f"--memory auto: devices of kind {jax.devices()[0].device_kind} do not tell their memory; give "
                "--device-memory GB"
            )
        return told["bytes_limit"]


def key_of(run: Run, place: Place) -> str:
    """Name of the setting of a run's program on such devices, 16 hexadecimal digits.

    Runs that differ in seed, learning rate, length or text have one program; it holds the code of a user's formats, as
    the id of a run does. How much memory a device has is not in it, so that runs go on with the setting that they have.
    """
    alike = replace(
        run,
        size="",
        ladder="",
        seed=0,
        tokens=run.tokens_per_step,
        data=DataId("", "", 1),
        optimizer=replace(run.optimizer, learning_rate=1.0),
    )
    devices = place.devices()
    on = {"kind": devices[0].device_kind, "devices": len(devices), "slices": place.count}
    return digest({"program": alike.run_id, "on": on})[:16]


def keep(run: Run, setting: Setting, compiled: Compiled, out: epath.Path) -> None:
    """Writes a setting that fits to the sweep's directory, where workers look before they search."""
    memory, folder = setting.memory, out / MEMORY
    refuse_link(folder)
    make_directory(folder)
    content = {
        "schema": SCHEMA,
        "for": run_name(replace(run, seed=0)).removesuffix(" seed 0"),
        "on": setting.slice.name,
        "fsdp": setting.fsdp,
        "remat": memory.remat,
        "microbatches": memory.microbatches,
        "gather": memory.gather,
        **({"unroll": True} if memory.unroll else {}),
        "bytes": compiled.bytes,
        "jax": jax.__version__,
    }
    write_json(folder / f"{key_of(run, setting.slice)}.json", sealed(content))


def kept(run: Run, place: Place, out: epath.Path) -> Setting | None:
    """The setting in the sweep's directory, None where there is none or devices have less memory now.

    Raises `UserError` for a file that is not as it was written.
    """
    path = out / MEMORY / f"{key_of(run, place)}.json"
    if not is_there(path):
        return None
    remedy = "remove it, and the setting is looked for again"
    found = read_json(path, remedy)
    check_seal(path, found, remedy)
    if found.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {found.get('schema')!r}; this version reads {SCHEMA}; {remedy}")
    if found["bytes"] > place.memory():
        return None
    memory = Memory(found["remat"], found["microbatches"], found["gather"], found.get("unroll", False))
    return Setting(place, found["fsdp"], memory)


def fitted(run: Run, place: Place, out: epath.Path, *, unroll: bool = False) -> Setting:
    """The memory setting of a run on these devices: the one that is kept, or else one that fits, which is kept.

    `unroll`: of settings that are looked for; what is kept says it itself.
    Of several processes the first one reads, so that all decide alike; they compile and search together.

    Raises:
      UserError: nothing that was tried fits; the message says what the least takes.
    """
    known = kept(run, place, out) if is_first() else None
    told = numbers_of_first(_numbers(known))
    if told[0]:
        return Setting(place, told[0], Memory(bool(told[1]), told[2], _GATHERS[told[3]], bool(told[4])))
    setting = Setting(place, 1, Memory(unroll=unroll))
    compiled = compile_step(run, setting)
    if any_process(not compiled.fits)[0]:
        found = remedy_here(run, compiled, setting, quick=False)
        if found is None:
            raise UserError(_nothing_fits(run, setting))
        setting, compiled = found
    if is_first():
        keep(run, setting, compiled, out)
    return setting


def _numbers(setting: Setting | None) -> list[int]:
    """A setting in numbers, which all processes can be told; zeros for None."""
    if setting is None:
        return [0, 0, 0, 0, 0]
    memory = setting.memory
    return [setting.fsdp, int(memory.remat), memory.microbatches, _GATHERS.index(memory.gather), int(memory.unroll)]


def _nothing_fits(run: Run, setting: Setting) -> str:
    place = setting.slice
    devices = len(place.devices())
    parts = max(2**power for power in range(run.batch.bit_length()) if run.batch % (2**power * devices) == 0)
    least = Setting(place, shared_by(place), replace(setting.memory, remat=True, microbatches=parts))
    need, there = compile_step(run, least).bytes, place.memory()
    return (
        f"{run_name(run)} does not fit on {place.name}: with {least} it takes {need / 1e9:.3g} GB of each, which have "
        f"{there / 1e9:.3g} GB; take devices with more memory, or more of them, which share its parameters: about "
        f"{-(-need * devices // there)} by that number (`capscale preflight --memory auto --topology` tells of TPUs)"
    )
