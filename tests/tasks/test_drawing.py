"""From a spec to fixed tokens, engine requests and the finished PNG with its recipe."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from engine.card import SETTINGS
from engine.codec.codec import Codec
from engine.request import EMPTY, RequestError, TextFeatures
from engine.text.encoder import ReadPrompt, TextEncoder
from service.jobs.spec import InpaintCompose, JobSpec, OutpaintCompose
from service.tasks import drawing
from service.tasks.generate import GenerateRequest, plan
from service.tasks.inpaint import InpaintFields
from service.tasks.outpaint import OutpaintFields
from service.tasks.pictures import recipe
from service.tasks.pictures.colours import from_srgb, to_srgb
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import encode
from service.tasks.pictures.inputs import BadUpload, load_canvas, open_inputs
from service.tasks.pictures.uploads import facts_and_files
from service.tasks.registry import TASKS
from service.tasks.task import Inputs
from service.tasks.vary import VaryFields
from tests.support.api import CARD, noise, png
from tests.tasks.test_colours import P3

MODEL = replace(CARD, weights="w" * 16, tokenizer="t" * 16)  # 4×4 tokens of 8×8 pixels, 8 codes
LIMITS = Limits(10**6, 10**4)
SIZE = (32, 32)


class FakeCodec:
    """Decodes a token to a flat patch, and encodes to 7s; counts its encodings. seen: the last
    picture that it encoded."""

    stride = 8
    encoded = 0
    seen: np.ndarray | None = None

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return np.kron(tokens[..., None], np.full((8, 8, 3), 30)).astype(np.uint8)

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.encoded += 1
        self.seen = image
        return np.full((image.shape[0] // 8, image.shape[1] // 8), 7, dtype=np.int32)


CODEC = cast(Codec, FakeCodec())
TOKENS = np.arange(16, dtype=np.int32).reshape(4, 4) % 8


def corner(size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[:3, :5] = True
    return mask


def generated(**fields: Any) -> JobSpec:
    sent = {"class": 2, "seed": 5, "n": 2, "steps": 3, "schedule": "cosine", "guidance_schedule": "constant"}
    return plan(GenerateRequest.model_validate(sent | fields), None, MODEL)


def inpainted(image: bytes, mask: bytes | None, **fields: Any) -> tuple[JobSpec, dict[str, bytes]]:
    facts, files = facts_and_files(image, mask, "white", LIMITS, MODEL)
    asked = InpaintFields.model_validate({"seed": 5, "class": 2} | fields)
    return TASKS["inpaint"].plan(asked, facts, MODEL), files


def outpainted(image: bytes, **fields: Any) -> tuple[JobSpec, dict[str, bytes]]:
    facts, files = facts_and_files(image, None, None, LIMITS, MODEL)
    return TASKS["outpaint"].plan(OutpaintFields.model_validate({"seed": 5} | fields), facts, MODEL), files


def loaded(spec: JobSpec, files: dict[str, bytes], codec: Codec = CODEC) -> tuple[Inputs, np.ndarray]:
    inputs = open_inputs(dict(files))
    return inputs, load_canvas(spec, inputs, codec)


def finished(spec: JobSpec, tokens: np.ndarray, inputs: Inputs | None = None, index: int = 0) -> bytes:
    request = drawing.requests(spec, MODEL)[index]
    made = drawing.finish(spec, request, tokens, CODEC.decode(tokens), inputs=inputs or Inputs(), card=MODEL)
    assert (made.height, made.width) == spec.size
    return made.png


def test_a_finished_picture_carries_what_draws_it_again() -> None:
    spec = generated()
    told = recipe.read(recipe.text_of(finished(spec, TOKENS, index=1)))
    request = drawing.requests(spec, MODEL)[1]
    assert dict(told.sampling) == {name: getattr(request, name) for name in SETTINGS}
    assert (told.task, told.class_label, told.class_name) == ("generate", spec.class_label, "torus")
    assert (told.seed, told.sampling.schedule) == (spec.seeds[1], "cosine")
    assert (told.windows, told.forks, told.composited) == ((), (), False)
    assert np.array_equal(told.tokens, TOKENS)
    assert not told.known.any()
    assert told.is_of(CODEC.decode(TOKENS))


def test_an_inpainted_picture_says_which_tokens_were_given_and_that_pixels_are_anothers() -> None:
    image, mask = noise(50, 70), corner((50, 70))
    spec, files = inpainted(png(image), png(mask), feather=2, seamless=False)
    inputs, canvas = loaded(spec, files)
    assert canvas[0, 0] == EMPTY
    assert (canvas == 7).sum() == 15
    told = recipe.read(recipe.text_of(finished(spec, TOKENS, inputs)))
    assert told.composited
    assert np.array_equal(told.known, canvas != EMPTY)
    compose, drawn = TASKS["inpaint"].compose, CODEC.decode(TOKENS)
    assert told.is_of(compose(spec, inputs, drawn))
    for other in (InpaintCompose(feather=0, seamless=False), InpaintCompose(feather=2, seamless=True)):
        shown = compose(spec.model_copy(update={"compose": other}), inputs, drawn)
        assert np.array_equal(shown[~mask], image[~mask])
        assert not told.is_of(shown)


def test_an_outpainting_knows_the_picture_and_keeps_it() -> None:
    image = noise(20, 30)
    spec, files = outpainted(png(image), right=7, seamless=False)
    inputs, canvas = loaded(spec, files)
    assert canvas.shape == (4, 8)  # 5 pixels a token: two more
    assert np.array_equal(canvas, [[7] * 6 + [EMPTY] * 2] * 4)
    tokens = np.where(canvas == EMPTY, 3, canvas)
    assert isinstance(spec.compose, OutpaintCompose)
    assert spec.size == (20, 40)
    told = recipe.read(recipe.text_of(finished(spec, tokens, inputs)))
    shown = TASKS["outpaint"].compose(spec, inputs, CODEC.decode(tokens))
    assert np.array_equal(shown[:, :30], image)
    assert (shown[:, 33:] == 90).all()
    assert told.windows == spec.windows
    assert np.array_equal(told.known, canvas != EMPTY)
    assert told.is_of(shown)


@pytest.mark.parametrize("task", ["inpaint", "outpaint", "vary"])
def test_a_picture_keeps_its_own_colours_and_the_model_sees_srgb(task: str) -> None:
    """What is drawn is converted into the picture's colours; what is not keeps its values, and both the profile."""
    image, codec = noise(32, 32), FakeCodec()
    upload, mask = encode(image, "png", profile=P3), corner(SIZE)
    if task == "inpaint":
        spec, files = inpainted(upload, png(mask), seamless=False)
    elif task == "outpaint":
        spec, files = outpainted(upload, right=8, seamless=False)
    else:
        facts, files = facts_and_files(upload, None, None, LIMITS, MODEL)
        spec = TASKS["vary"].plan(VaryFields.model_validate({"seed": 5}), facts, MODEL)
    inputs, canvas = loaded(spec, files, cast(Codec, codec))
    assert codec.seen is not None
    seen = to_srgb(image, P3)
    if task == "outpaint":  # continued by 32 pixels where the canvas goes on
        seen = np.pad(seen, ((0, 0), (0, 32), (0, 0)), mode="edge")
    assert np.array_equal(codec.seen, seen)
    file = finished(spec, np.where(canvas == EMPTY, 3, canvas), inputs)
    with Image.open(io.BytesIO(file)) as made:
        shown, profile = np.asarray(made), made.info.get("icc_profile")
    own = from_srgb(np.full((1, 1, 3), 90, dtype=np.uint8), P3)[0, 0]
    if task == "vary":  # it has none of the picture's pixels
        assert profile is None
    else:
        kept = np.zeros(shown.shape[:2], dtype=bool)
        kept[:32, :32] = ~mask if task == "inpaint" else True
        assert profile == P3
        assert np.array_equal(shown[:32, :32][kept[:32, :32]], image[kept[:32, :32]])
        assert np.array_equal(shown[1, 1] if task == "inpaint" else shown[0, -1], own)


def test_an_upload_that_tells_its_tokens_is_not_encoded_again() -> None:
    codec = FakeCodec()
    made = finished(generated(), TOKENS)
    mask = png(corner(SIZE))
    _, canvas = loaded(*inpainted(made, mask), cast(Codec, codec))
    assert np.array_equal(canvas.ravel()[1:], TOKENS.ravel()[1:])
    assert codec.encoded == 0
    # Its tokens at a border say that it ends there.
    _, wider = loaded(*outpainted(made, left=1), cast(Codec, codec))
    assert (wider[:, 1:] == 7).all()
    assert codec.encoded == 1
    codec.encoded = 0

    pixels, text = codec.decode(TOKENS), recipe.text_of(made) or ""
    pixels[5, 5, 1] ^= 1
    for count, file in enumerate(
        [
            encode(pixels, "png", text={recipe.KEYWORD: text}),  # edited
            encode(CODEC.decode(TOKENS), "png", text={recipe.KEYWORD: "{}"}),
            encode(CODEC.decode(TOKENS), "png"),
        ],
        start=1,
    ):
        _, canvas = loaded(*inpainted(file, mask), cast(Codec, codec))
        assert (canvas.ravel()[1:] == 7).all()
        assert codec.encoded == count
    facts, _ = facts_and_files(made, mask, "white", LIMITS, replace(MODEL, tokenizer="s" * 16))
    assert facts.tokens is None, "another tokenizer's"


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (None, png(corner(SIZE)), "upload_missing"),
        (png(noise(*SIZE)), None, "upload_missing"),
        (b"\x89PNG", png(corner(SIZE)), "upload_damaged"),
        (png(noise(*SIZE)), png(corner((32, 31))), "upload_damaged"),
    ],
)
def test_a_stored_upload_that_cannot_be_used_says_why(image: bytes | None, mask: bytes | None, code: str) -> None:
    with pytest.raises(BadUpload) as caught:
        open_inputs({"image": image, "mask": mask})
    assert caught.value.code == code


class FakeEncoder:
    """Makes a row of each word, knows no word with a “z”, drops words with a “#”, and reads five words."""

    def read(self, text: str, field: str = "prompt") -> ReadPrompt:
        dropped = tuple(word for word in text.split() if "#" in word)
        words = [word for word in text.split() if "#" not in word]
        if "!" in words:
            raise RequestError(field, "nothing is left of it")
        unknown = tuple(word for word in words if "z" in word)
        return ReadPrompt(text, tuple(map(len, words[:5])), dropped, " ".join(words[5:]), unknown)

    def encode(self, text: str, field: str = "prompt") -> TextFeatures:
        return TextFeatures(np.array([[size] for size in self.read(text, field).ids], dtype=np.float32), text)


ENCODER = cast(TextEncoder, FakeEncoder())
WORDS = replace(MODEL, conditioning="text", condition_rows=120, classes=())


def prompted(**fields: Any) -> JobSpec:
    return plan(GenerateRequest.model_validate({"seed": 5, "n": 2} | fields), None, WORDS)


def test_prompts_become_features_of_every_picture_and_are_told_by_its_recipe() -> None:
    spec = prompted(prompt="a purple mug", negative_prompt="fog")
    prompts, warnings = drawing.encode_prompts(spec, ENCODER)
    assert (prompts.rows, warnings) == (4, ())
    made = drawing.requests(spec, WORDS, prompts)
    assert [(one.prompt, one.negative_prompt, one.class_label) for one in made] == [
        (ENCODER.encode("a purple mug"), ENCODER.encode("fog"), None)
    ] * 2
    picture = drawing.finish(spec, made[1], TOKENS, CODEC.decode(TOKENS), inputs=Inputs(), card=WORDS)
    told = recipe.read(recipe.text_of(picture.png))
    assert (told.prompt, told.negative_prompt, told.class_label) == ("a purple mug", "fog", None)
    assert drawing.encode_prompts(prompted(), None) == (drawing.NO_PROMPTS, ())


def test_a_prompt_is_never_forgotten_on_its_way_to_the_engine() -> None:
    with pytest.raises(AssertionError, match="not encoded"):
        drawing.requests(prompted(prompt="a mug"), WORDS)
    assert drawing.steps_of(prompted(prompt="a mug", steps=5), WORDS) == 5


def test_what_the_model_does_not_read_of_a_prompt_is_a_warning() -> None:
    spec = prompted(prompt="one #2 two three four five six seven", negative_prompt="zoo of " + "z" * 200)
    _, warnings = drawing.encode_prompts(spec, ENCODER)
    assert [(warning.field, warning.code) for warning in warnings] == [
        ("prompt", "dropped_words"), ("prompt", "truncated"), ("negative_prompt", "unknown_words")
    ]  # fmt: skip
    assert warnings[0].message.endswith("not all words of the prompt: “#2”")
    assert warnings[1].message == "the prompt is too long; the model does not read its end: “six seven”"
    assert warnings[2].message.endswith(f"some words of the negative prompt: “zoo”, “{'z' * 99}…”")
    many = prompted(prompt=" ".join(f"z{number}" for number in range(5)) * 3)
    assert drawing.encode_prompts(many, ENCODER)[1][-1].message.endswith("and 3 more")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_text_that_the_encoder_refuses_is_refused_by_its_field(field: str) -> None:
    with pytest.raises(RequestError, match=f"^{field}: nothing is left"):
        drawing.encode_prompts(prompted(**{"prompt": "a mug", field: "!"}), ENCODER)


def test_a_spec_becomes_the_requests_that_it_says() -> None:
    request = drawing.requests(generated(top_k=4, order=list(range(15, -1, -1))), MODEL)[1]
    assert (request.order, request.top_k, request.task) == (tuple(range(15, -1, -1)), 4, "generate")
    assert (request.class_label, request.grid, dict(request.fixed_tokens)) == (2, None, {})
