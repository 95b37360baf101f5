"""The simulated warp sees what it is there to see."""

import numpy as np
import pytest

from tests.warp_simulator import WARP, SimulatedCuda


def run(kernel, *arguments, seed: int = 0) -> SimulatedCuda:
    cuda = SimulatedCuda(seed)
    cuda.jit(lambda *given: kernel(cuda, *given))[1, WARP](*arguments)
    return cuda


def turned(cuda: SimulatedCuda, out: np.ndarray, waits: bool) -> None:
    """Each lane reads what another one has written."""
    lane = cuda.threadIdx.x
    room = cuda.shared.array(WARP, np.int64)
    room[lane] = lane
    if waits:
        cuda.syncwarp()
    out[lane] = room[(lane + 1) % WARP]


def test_a_barrier_orders_writes_and_reads():
    out = np.zeros(WARP, np.int64)
    run(turned, out, True)
    np.testing.assert_array_equal(out, (np.arange(WARP) + 1) % WARP)


def test_without_the_barrier_it_is_an_error():
    with pytest.raises(AssertionError, match=r"lane \d+ touches entry \d+ with no barrier since another one did"):
        run(turned, np.zeros(WARP, np.int64), False)


@pytest.mark.parametrize("writes_first", [True, False])
def test_a_vote_orders_nothing_in_memory(writes_first):
    def kernel(cuda, out):
        lane = cuda.threadIdx.x
        room = cuda.shared.array(WARP, np.int64)
        room[lane] = -1
        cuda.syncwarp()
        if writes_first:
            room[lane] = lane
        else:
            out[lane] = room[(lane + 1) % WARP]
        cuda.ballot_sync(0xFFFFFFFF, True)
        if writes_first:
            out[lane] = room[(lane + 1) % WARP]
        else:
            room[lane] = lane

    with pytest.raises(AssertionError, match="no barrier since"):
        run(kernel, np.zeros(WARP, np.int64))


def test_lanes_may_repeat_what_one_of_them_writes():
    def kernel(cuda, out):
        room = cuda.shared.array(1, np.int64)
        room[0] = 7
        cuda.syncwarp()
        out[cuda.threadIdx.x] = room[0]

    out = np.zeros(WARP, np.int64)
    run(kernel, out)
    assert (out == 7).all()


def test_votes_and_shuffles():
    out = np.zeros((4, WARP), np.int64)

    def kernel(cuda, out):
        lane = cuda.threadIdx.x
        out[0, lane] = cuda.ballot_sync(0xFFFFFFFF, lane in (0, 31))
        out[1, lane] = cuda.any_sync(0xFFFFFFFF, lane == 7)
        out[2, lane] = cuda.all_sync(0xFFFFFFFF, lane < 31)
        out[3, lane] = cuda.shfl_xor_sync(0xFFFFFFFF, lane, 4)

    run(kernel, out)
    assert (out[0] == 1 - 2**31).all()  # an int32
    assert (out[1] == 1).all()
    assert (out[2] == 0).all()
    np.testing.assert_array_equal(out[3], np.arange(WARP) ^ 4)


def test_lanes_that_wait_for_different_things_are_an_error():
    def kernel(cuda):
        if cuda.threadIdx.x < 3:
            cuda.syncwarp()
        else:
            cuda.any_sync(0xFFFFFFFF, True)

    with pytest.raises(AssertionError, match=r"lanes diverge: \['any', 'barrier'\]"):
        run(kernel)


def test_lanes_that_end_while_others_wait_are_an_error():
    def kernel(cuda):
        if cuda.threadIdx.x < 3:
            cuda.syncwarp()

    with pytest.raises(AssertionError, match=r"lanes diverge: \['barrier', 'the end'\]"):
        run(kernel)


def test_an_error_in_a_lane_comes_out():
    def kernel(cuda):
        if cuda.threadIdx.x == 5:
            raise ZeroDivisionError
        cuda.syncwarp()

    with pytest.raises(ZeroDivisionError):
        run(kernel)


def test_a_product_in_another_precision_is_an_error():
    with pytest.raises(AssertionError):
        run(lambda cuda: cuda.libdevice.fmul_rn(np.float64(1), np.float32(1)))
