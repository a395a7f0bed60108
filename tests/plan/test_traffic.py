"""Counting memory traffic in the TPU compiler's spelling, where ``S(1)`` marks what is on the chip. Programs of the
real compiler are counted in ``test_plan.py``."""

from string import Template

import pytest

from extra_jax.plan.traffic import loop_traffic

HBM_STACK, CHIP_ROW = "f32[4,256]{1,0:T(8,128)}", "f32[1,256]{1,0:T(8,128)S(1)}"
SHAPES = {"stack": HBM_STACK, "row": CHIP_ROW, "state": f"(s32[]{{:T(128)}}, {HBM_STACK}, {CHIP_ROW})"}
STACK, ROW = 4096, 1024  # bytes

PROGRAM = """HloModule jit_decode, is_scheduled=true

%sliced (param_0: f32[4,256], param_1: s32[]) -> f32[1,256] {
  %param_0 = $stack parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = f32[1,256]{1,0:T(8,128)} dynamic-slice(%param_0, %param_1, %param_1), dynamic_slice_sizes={1,256}
}

%layer (param_0: f32[4,256], param_1: s32[], param_2: f32[1,256]) -> f32[1,256] {
  %param_0 = $stack parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %param_2 = $row parameter(2)
  %weight = f32[1,256]{1,0:T(8,128)} fusion(%param_0, %param_1), kind=kLoop, calls=%sliced
  ROOT %add = $row add(%param_2, %weight)
}

%in_place (param_0: f32[4,256], param_1: f32[1,256], param_2: s32[]) -> f32[4,256] {
  %param_0 = $stack parameter(0)
  %param_1 = $row parameter(1)
  %param_2 = s32[]{:T(128)} parameter(2)
  ROOT %update = $stack dynamic-update-slice(%param_0, %param_1, %param_2, %param_2)
}

%renamed (param_0: f32[4,256]) -> f32[1024] {
  %param_0 = $stack parameter(0)
  ROOT %bitcast = f32[1024]{0:T(1024)} bitcast(%param_0)
}

%whole (param_0: f32[4,256]) -> f32[] {
  %param_0 = $stack parameter(0)
  %flat = f32[1024]{0:T(1024)} fusion(%param_0), kind=kLoop, calls=%renamed
  ROOT %sum = f32[]{:T(128)S(1)} negate(%flat)
}

%other_tiles (param_0: f32[4,256], param_1: s32[]) -> f32[1,256] {
  %param_0 = $stack parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %copy = f32[4,256]{1,0:T(4,128)} fusion(%param_0), kind=kLoop, calls=%retiled
  ROOT %slice = $row dynamic-slice(%copy, %param_1, %param_1), dynamic_slice_sizes={1,256}
}

%retiled (param_0: f32[4,256]) -> f32[4,256] {
  %param_0 = $stack parameter(0)
  ROOT %copy = f32[4,256]{1,0:T(4,128)} copy(%param_0)
}

%layers (loop.1: (s32[], f32[4,256], f32[1,256])) -> (s32[], f32[4,256], f32[1,256]) {
  %loop.1 = $state parameter(0)
  %new = $row fusion(%loop.1#1, %loop.1#0, %loop.1#2), kind=kLoop, calls=%layer
  ROOT %tuple.1 = $state tuple(%loop.1#0, %loop.1#1, %new)
}

%four (loop.2: (s32[], f32[4,256], f32[1,256])) -> pred[] {
  %loop.2 = $state parameter(0)
  ROOT %never = pred[]{:T(512)S(1)} constant(false)
}

%step (loop.3: (s32[], f32[4,256], f32[1,256])) -> (s32[], f32[4,256], f32[1,256]) {
  %loop.3 = $state parameter(0)
  $line
  ROOT %tuple.2 = $state tuple(%loop.3#0, %loop.3#1, %loop.3#2)
}

%data (loop.4: (s32[], f32[4,256], f32[1,256])) -> pred[] {
  %loop.4 = $state parameter(0)
  ROOT %more = pred[]{:T(512)S(1)} constant(true)
}

ENTRY %main (argument: f32[4,256]) -> f32[4,256] {
  %argument = $stack parameter(0)
  %outside = $stack negate(%argument)
  %start = $state tuple(%outside, %outside, %outside)
  %loop = $state while(%start), condition=%data, body=%step
  ROOT %result = $stack negate(%loop#1)
}
"""


@pytest.mark.parametrize(
    ("line", "bytes_moved"),
    [
        ("%all = $stack negate(%loop.3#1)", 2 * STACK),
        ("%kept = f32[4,256]{1,0:T(8,128)S(1)} negate(%loop.3#1)", STACK),
        ("%on_chip = $row negate(%loop.3#2)", 0),
        ("%one = $row fusion(%loop.3#1, %loop.3#0, %loop.3#2), kind=kLoop, calls=%layer", ROW + 4),
        ("%in = $stack fusion(%loop.3#1, %loop.3#2, %loop.3#0), kind=kLoop, calls=%in_place", ROW + 4),
        ("%sum.1 = f32[]{:T(128)S(1)} fusion(%loop.3#1), kind=kLoop, calls=%whole", STACK),
        ("%tiles = $row fusion(%loop.3#1, %loop.3#0), kind=kLoop, calls=%other_tiles", ROW + 4),
        ("%ahead = (f32[4,256]{1,0:T(8,128)S(1)}, $stack, u32[]{:S(2)}) copy-start(%loop.3#1)", STACK),
        ("%part = (($stack), $row, s32[]{:S(2)}) slice-start(%loop.3#1), slice={[0:1], [0:256]}", ROW),
        (
            "%inner = $state while(%loop.3), condition=%four, body=%layers, "
            'backend_config={"known_trip_count":{"n":"4"}}',
            4 * (ROW + 4),
        ),
    ],
)
def test_what_a_trip_of_the_loop_over_data_moves(line: str, bytes_moved: int) -> None:
    """The 4 bytes are the index of the slice."""
    program = Template(PROGRAM).substitute(SHAPES, line=Template(line).substitute(SHAPES))
    assert loop_traffic(program)[0] == bytes_moved
