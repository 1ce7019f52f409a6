"""Names made fit to be shown."""

import pytest

from mpo.render.names import clean, common_ends, compact_names, shorten


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["layer1.1", "layer1.2", "layer1.3", "layer1.4", "layer2.3"], "layer1.1-4, layer2.3"),
        (["layer1.4", "layer1.1", "layer1.2"], "layer1.1-2, layer1.4"),
        (["encoder.9.mlp", "encoder.10.mlp"], "encoder.9-10.mlp"),
        (["stage.007", "stage.008"], "stage.007, stage.008"),
        (["head"], "head"),
        (["a" * 400 + "9" * 5000], "a" * 400 + "9" * 5000),
        ([], "none"),
    ],
)
def test_names_in_a_row_become_a_range(names: list[str], text: str) -> None:
    assert compact_names(names) == text


def test_a_long_list_of_names_says_how_many_more_there_are() -> None:
    assert compact_names(["a", "b", "c", "d"], limit=2) == "a, b, and 2 more"


def test_control_and_direction_characters_are_taken_out_of_names() -> None:
    assert clean("a\x1b[31mb\u202ec\u200bd\r\ne\x9b") == "a[31mbcd e"
    assert clean("größe λ 层") == "größe λ 层"


def test_a_long_text_keeps_its_start_and_its_end() -> None:
    assert shorten("encoder.layers.11.attention", 12) == "enco…tention"
    assert len(shorten("x" * 50, 12)) == 12
    assert shorten("short", 12) == "short"


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (["m.layers.0.mlp", "m.layers.1.mlp", "m.layers.10.mlp"], ("m.layers.", ".mlp")),
        (["layer1.0", "layer1.1"], ("layer1.", "")),
        (["layer1.0", "layer2.0"], ("", ".0")),
        (["a.b", "a.b"], ("a.", "")),
        (["a", "a.b"], ("", "")),
        (["only.one"], ("", "")),
        ([], ("", "")),
    ],
)
def test_what_all_names_share_is_found(names: list[str], ends: tuple[str, str]) -> None:
    assert common_ends(names) == ends
