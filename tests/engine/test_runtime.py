import pytest
import torch

from rcodsr.engine.runtime import choose_runtime, is_out_of_memory, plan_tile
from rcodsr.errors import DeviceError, UsageError
from rcodsr.variants import RCOD_TINY

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")


def test_cpu_in_float32() -> None:
    runtime = choose_runtime("cpu", "fp32")
    assert (runtime.device.type, runtime.dtype, runtime.dtype_name) == ("cpu", torch.float32, "fp32")
    assert "as requested" in runtime.reason


def test_the_reason_says_when_bf16_is_a_bad_idea() -> None:
    native = torch.cpu._is_avx512_bf16_supported()
    assert ("slower than fp32" in choose_runtime("cpu", "bf16").reason) is not native
    assert "slower" not in choose_runtime("cpu", "fp32").reason


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:9"])
def test_missing_cuda_is_an_error_and_no_silent_cpu(device: str) -> None:
    with pytest.raises(DeviceError, match="--device cpu|--device auto"):
        choose_runtime(device)


@pytest.mark.parametrize(
    ("device", "dtype"), [("gpu", "auto"), ("cpu:1", "auto"), ("cuda:x", "auto"), ("cpu", "fp8"), ("cpu", "fp16")]
)
def test_nonsense_is_refused(device: str, dtype: str) -> None:
    with pytest.raises((DeviceError, UsageError)):
        choose_runtime(device, dtype)


def test_tiles_on_a_cpu_do_not_depend_on_free_memory() -> None:
    assert plan_tile(choose_runtime("cpu", "fp32"), RCOD_TINY) == 256


def test_cpu_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
