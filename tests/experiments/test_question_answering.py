"""Extractive question answering: the data, the scores, the windows, and encoders that learn to find answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, PreTrainedTokenizerFast

import shapeshift
from benchmarks.experiments import question_answering as benchmark
from benchmarks.experiments.question_answering import Answering, Pretraining, Sizes, distinct
from benchmarks.row import Row
from benchmarks.tables.question_answering import TABLE
from benchmarks.task import Task
from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.questions import GAP, questions
from shapeshift.experiments.data.squad import Answer, Question, load_squad
from shapeshift.experiments.data.wordpiece import train_wordpiece
from shapeshift.experiments.tasks.answer_scores import AnswerScores, exact_match, f1, normalise, score
from shapeshift.experiments.tasks.masked_language import MaskedLanguageModel, mask_tokens, pretrain
from shapeshift.experiments.tasks.question_answering import QuestionAnswering, Windows, answer, fine_tune, make_windows
from shapeshift.experiments.training import Recipe
from tests.tolerances import assert_close

PASSAGE = "The generator makes weights. It mixes templates of a store, and a store is shared by some layers."


def ask(name: str, question: str, text: str, context: str = PASSAGE) -> Question:
    return Question(name, question, context, (Answer(text, context.index(text)),) if text else ())


QUESTIONS = [
    ask("q0", "What makes weights?", "generator"),
    ask("q1", "What does it mix?", "templates of a store"),
    ask("q2", "Who shares a store?", "layers."),
    ask("q3", "Who wrote this?", ""),
]


@pytest.fixture(scope="module")
def made() -> tuple[list[Question], list[Question]]:
    return questions()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece([PASSAGE, *(question.question for question in QUESTIONS)], 120)


def encoder(tokenizer: PreTrainedTokenizerFast, layers: int = 2, length: int = 64) -> AlbertModel:
    """Build an ALBERT whose layers have weights of their own."""
    config = AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=layers,
        num_hidden_groups=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.18,
    )
    return AlbertModel(config, add_pooling_layer=False)


# The files


def file_of(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def squad(**changes: Any) -> dict[str, Any]:
    entry = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 8}], **changes}
    entry = {name: value for name, value in entry.items() if value is not None}
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "Her name Ada.", "qas": [entry]}]}]}


def test_version_1_is_read_with_all_its_answers(tmp_path: Path) -> None:
    answers = [{"text": "Ada", "answer_start": 9}, {"text": "name Ada", "answer_start": 4}]
    (question,) = load_squad(file_of(tmp_path, squad(answers=answers)))
    assert question == Question("1", "Who?", "Her name Ada.", (Answer("Ada", 9), Answer("name Ada", 4)))


def test_version_2_is_read_with_questions_that_have_no_answer(tmp_path: Path) -> None:
    plausible = [{"text": "Ada", "answer_start": 9}]
    content = squad(answers=[], is_impossible=True, plausible_answers=plausible)
    (question,) = load_squad(file_of(tmp_path, content))
    assert question.answers == ()


def test_an_answer_that_is_off_by_a_character_is_put_right(tmp_path: Path) -> None:
    (question,) = load_squad(file_of(tmp_path, squad()))
    assert question.answers == (Answer("Ada", 9),)


TWICE = squad()
TWICE["data"][0]["paragraphs"][0]["qas"] *= 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "has no 'data'"),
        ({"data": {}}, "'data' is a dict, and has to be a list"),
        ({"data": []}, "has no question"),
        ({"data": [{"title": "T"}]}, r"data\[0\] has no 'paragraphs'"),
        (squad(id=None), r"data\[0\].paragraphs\[0\].qas\[0\] has no 'id'"),
        (squad(question=3), "'question' is a int, and has to be a str"),
        (squad(answers=[{"text": "Ada"}]), r"qas\[0\].answers\[0\] has no 'answer_start'"),
        (squad(answers=[{"text": "Ada", "answer_start": True}]), "'answer_start' is a bool"),
        (squad(answers=[{"text": "Bob", "answer_start": 9}]), "'Bob' is not in the passage at character 9"),
        (squad(answers=[{"text": "Ada", "answer_start": 3}]), "at character 3, where it has ' na'"),
        (squad(answers=[{"text": "", "answer_start": 3}]), "the answer '' is not in the passage"),
        (squad(answers=[]), "not impossible has no answers"),
        (squad(is_impossible=True), "is impossible has answers"),
        (TWICE, r"qas\[1\]: the id '1' is that of an earlier question"),
    ],
)
def test_what_is_no_file_of_squad_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load_squad(file_of(tmp_path, content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json cannot be read as JSON"):
        load_squad(tmp_path / "absent.json")


@pytest.mark.parametrize(("text", "start"), [("store", 3), ("", 0), ("s.", -2)])
def test_an_answer_has_to_be_in_its_passage(text: str, start: int) -> None:
    with pytest.raises(DataError, match="question 'q': the answer"):
        Question("q", "What?", PASSAGE, (Answer(text, start),))


# The questions about Python


def test_a_made_question_is_a_sentence_of_its_passage_with_the_answer_left_out(
    made: tuple[list[Question], list[Question]],
) -> None:
    for question in made[0] + made[1]:
        (right,) = question.answers
        before, after = question.question.split(GAP)
        place = right.start - len(before)
        assert question.context[place : right.end + len(after)] == before + right.text + after
        assert normalise(right.text)


def test_made_questions_are_many_and_no_passage_is_in_both_sets(made: tuple[list[Question], list[Question]]) -> None:
    training, test = made
    assert len(training) > 2000
    assert 0.15 < len(test) / (len(training) + len(test)) < 0.25
    assert {question.context for question in training}.isdisjoint(question.context for question in test)
    names = [question.id for question in training + test]
    assert len(set(names)) == len(names)
    # Terms of several words, too: otherwise F1 would be exact match.
    assert Counter(len(question.answers[0].text.split()) for question in training)[2] > 500


def test_made_questions_are_the_same_in_every_run(made: tuple[list[Question], list[Question]]) -> None:
    assert questions() == made


@pytest.mark.parametrize("options", [{"passage": 0}, {"per_sentence": 0}, {"reach": 0}])
def test_sizes_of_made_questions_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="give numbers from 1"):
        questions(**options)


# The scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("an a the", ""),
        ("Anna's theatre", "annas theatre"),
        ("a-b (c)", "ab c"),
        ("__init__()", "init"),
        ("“Übung”", "“übung”"),  # punctuation beyond ASCII stays
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("given", "right", "exact", "expected"),
    [
        ("the black cat", "Black cat.", 1, 1),
        ("cat", "black cat", 0, 2 / 3),  # precision 1, recall 1/2
        ("a big black dog", "black cat", 0, 2 / 5),  # precision 1/3, recall 1/2
        ("cat cat dog", "cat dog dog", 0, 2 / 3),  # a word counts as often as both have it
        ("dog", "cat", 0, 0),
        ("", "", 1, 1),
        ("", "cat", 0, 0),
        ("the", "", 1, 1),
        ("the", "cat", 0, 0),
    ],
)
def test_scores_of_one_answer_are_as_counted_by_hand(given: str, right: str, exact: float, expected: float) -> None:
    assert exact_match(given, right) == exact
    assert f1(given, right) == expected
    assert f1(right, given) == expected


def test_scores_are_means_over_questions_of_the_closest_answer() -> None:
    several = Question("several", "What?", "a black cat", (Answer("black cat", 2), Answer("cat", 8), Answer("a", 0)))
    unanswerable = Question("none", "Why?", "a black cat", ())
    wrong = Question("wrong", "Who?", "a black cat", (Answer("black cat", 2),))
    found = score([several, unanswerable, wrong], {"several": "cat", "none": "", "wrong": "black dog"})
    assert found == AnswerScores(exact=100 * 2 / 3, f1=100 * (1 + 1 + 1 / 2) / 3)
    # An answer of articles alone is passed over: nothing is no right answer here.
    assert score([several], {"several": ""}) == AnswerScores(0.0, 0.0)
    assert score([unanswerable], {"none": "cat"}) == AnswerScores(0.0, 0.0)


def test_a_question_without_a_given_answer_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="1 questions have no answer, such as 'q1'"):
        score(QUESTIONS[:2], {"q0": "generator"})
    with pytest.raises(DataError, match="no question to score"):
        score([], {})


# The vocabulary


def test_a_vocabulary_reads_pairs_as_bert_does(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(f"Who {GAP}?", "Templates")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        *("[CLS]", "who", "[MASK]", "?", "[SEP]", "templates", "[SEP]")
    ]
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) <= 120


def test_a_name_of_code_is_one_word() -> None:
    tokenizer = train_wordpiece(["__init__(self)"] * 3, 100)
    assert tokenizer.tokenize("__init__(self)") == ["__init__", "(", "self", ")"]


def test_a_vocabulary_is_the_same_in_every_run(made: tuple[list[Question], list[Question]]) -> None:
    # The trainer of tokenizers goes through tables whose order is another one each time.
    texts = [question.context for question in made[0][:400]]
    first, second, third = (train_wordpiece(texts, 600).get_vocab() for _ in range(3))
    assert first == second == third
    assert len(first) == 600


def test_a_vocabulary_has_room_for_words() -> None:
    with pytest.raises(ConfigError, match="more than the 5 special tokens"):
        train_wordpiece(["word"], 5)


# The windows


def test_the_tokens_of_an_answer_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = make_windows(QUESTIONS, tokenizer, length=64, stride=8, question_length=16)
    assert len(windows) == 4
    for row, question in enumerate(QUESTIONS[:3]):
        begin, end = windows.offsets[row, windows.starts[row], 0], windows.offsets[row, windows.ends[row], 1]
        assert question.context[begin:end] == question.answers[0].text
        assert windows.answerable[row, windows.starts[row]]
    assert windows.starts[3] == windows.ends[3] == 0
    assert not (windows.answerable & (windows.kinds == 0)).any()
    assert not windows.answerable[:, 0].any()


def test_an_answer_within_a_token_is_that_token(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = make_windows([ask("q", "What?", "emplate")], tokenizer, length=64, stride=8, question_length=16)
    assert windows.offsets[0, windows.starts[0]].tolist() == [PASSAGE.index("templates"), PASSAGE.index(" of a store")]
    assert windows.starts[0] == windows.ends[0]


def test_a_long_passage_is_cut_into_windows_that_overlap(tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    assert len(windows) > 1
    covered: list[int] = []
    for row in range(len(windows)):
        inside = [tuple(pair) for pair in windows.offsets[row][windows.answerable[row]].tolist()]
        begin, end = inside[0][0], inside[-1][1]
        right = question.answers[0]
        whole = begin <= right.start and right.end <= end
        assert (windows.starts[row] > 0) == (windows.ends[row] > 0) == whole
        if covered:
            assert inside[3][1] == covered[-1]  # four tokens are in both
        covered += [place for _, place in inside]
    assert sorted(set(covered))[-1] == len(PASSAGE)
    assert windows.questions.tolist() == [0] * len(windows)
    assert (windows.starts > 0).any()


def test_words_that_question_and_passage_share_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    plain, marked = (make_windows(QUESTIONS[:1], tokenizer, 64, 8, 16, mark_matches=mark) for mark in (False, True))
    shared = [tokenizer.convert_ids_to_tokens(marked.tokens[0][marked.kinds[0] == kind].tolist()) for kind in (2, 1)]
    assert set(shared[0]) == {"makes", "weights"}
    assert {"generator", "templates"} <= set(tokenizer.convert_tokens_to_string(shared[1]).split())
    assert torch.equal(marked.kinds.clamp(max=1), plain.kinds)
    assert set(plain.kinds.unique().tolist()) == {0, 1}


def test_a_long_question_is_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    question = ask("q", "What makes weights, and who shares a store of weights?", "layers")
    windows = make_windows([question], tokenizer, length=48, stride=4, question_length=5)
    asked = windows.tokens[0][(windows.kinds[0] == 0) & (windows.mask[0] == 1)]
    assert tokenizer.decode(asked[1:-1]) == tokenizer.decode(tokenizer(question.question)["input_ids"][1:6])
    assert len(asked) == 7


@pytest.mark.parametrize("sizes", [(10, 4, 4), (32, -1, 8), (32, 4, 0)])
def test_windows_need_room(sizes: tuple[int, int, int], tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=f"length={sizes[0]} cannot hold question_length={sizes[2]}, 3 special"):
        make_windows(QUESTIONS, tokenizer, *sizes)


def test_windows_need_questions(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="give at least one"):
        make_windows([], tokenizer)


# The answers


class Fixed(QuestionAnswering):
    """Gives logits that the test chose, whatever it reads."""

    def __init__(self, logits: Tensor) -> None:
        nn.Module.__init__(self)
        self.logits = nn.Parameter(logits)

    def forward(self, tokens: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        return self.logits[:, : len(tokens)]


def best_by_hand(logits: Tensor, windows: Windows, longest: int) -> tuple[float, str]:
    """Try every span of every window."""
    spans = [
        (float(logits[0, row, first] + logits[1, row, last]), row, first, last)
        for row in range(len(windows))
        for first in range(windows.tokens.shape[1])
        for last in range(first, min(first + longest, windows.tokens.shape[1]))
        if windows.answerable[row, first] and windows.answerable[row, last]
    ]
    best, row, first, last = max(spans)
    return best, PASSAGE[int(windows.offsets[row, first, 0]) : int(windows.offsets[row, last, 1])]


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_answer_is_the_best_span_over_all_windows(longest: int, tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    found = set()
    for seed in range(20):
        logits = torch.randn(2, *windows.tokens.shape, generator=torch.Generator().manual_seed(seed))
        _, text = best_by_hand(logits, windows, longest)
        assert answer(Fixed(logits), [question], windows, longest) == {"q1": text}
        found.add(text)
    assert len(found) > 5


def test_a_question_is_left_open_by_the_threshold(tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    logits = torch.randn(2, *windows.tokens.shape, generator=torch.Generator().manual_seed(0))
    best, text = best_by_hand(logits, windows, 30)
    # No answer is the claim of the window that claims it least.
    unanswered = float((logits[0, :, 0] + logits[1, :, 0]).min())
    gap = unanswered - best
    for threshold, expected in ((gap + 0.01, text), (gap - 0.01, ""), (None, text)):
        assert answer(Fixed(logits), [question], windows, threshold=threshold) == {"q1": expected}


# Pretraining


def test_masking_hides_replaces_and_keeps_as_bert_does() -> None:
    tokens = torch.randint(5, 1000, (400, 100), generator=torch.Generator().manual_seed(0))
    words = torch.ones_like(tokens, dtype=torch.bool)
    words[:, 0] = False
    given, labels = mask_tokens(tokens, words, 4, 1000, torch.Generator().manual_seed(1))
    wanted = labels >= 0
    assert torch.equal(labels[wanted], tokens[wanted])
    assert torch.equal(given[~wanted], tokens[~wanted])
    assert not wanted[:, 0].any()
    shares = [
        wanted[:, 1:].float().mean().item(),
        (given == 4)[wanted].float().mean().item(),
        (given == tokens)[wanted].float().mean().item(),
    ]
    # 6,000 draws: three standard deviations are less than 0.02.
    assert shares == pytest.approx([0.15, 0.8, 0.1], abs=0.02)


@pytest.mark.parametrize("kind", ["albert", "bert", "compressed"])
def test_tokens_are_predicted_by_the_encoders_own_embeddings(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 16}
        model: nn.Module = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False)
    else:
        model = encoder(tokenizer)
    if kind == "compressed":
        shapeshift.compress(model, "60%")
    own = shapeshift.count_parameters(model)
    language = MaskedLanguageModel(model).eval()
    width = language.norm.normalized_shape[0]
    hidden = model.config.hidden_size
    assert shapeshift.count_parameters(language) == own + hidden * width + 3 * width + len(tokenizer)
    encoded = tokenizer([PASSAGE], return_tensors="pt")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"]
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[0, 3:5] = True
    logits = language(tokens, mask, wanted)
    states = model(tokens, mask).last_hidden_state[0, 3:5]
    table = model.embeddings.word_embeddings(torch.arange(len(tokenizer)))
    by_hand = language.norm(nn.functional.gelu(language.dense(states))) @ table.T + language.bias
    assert_close(logits, by_hand, "reordered")
    # The head alone reaches the embeddings of words that the text does not have.
    logits[:, -1].sum().backward()
    assert all(parameter.grad is not None for parameter in language.parameters() if parameter.dim() > 1)


def test_pretraining_learns_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer([PASSAGE], return_tensors="pt")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"]
    hidden = torch.zeros_like(mask, dtype=torch.bool)
    hidden[0, 2::4] = True
    torch.manual_seed(0)
    model = encoder(tokenizer)

    @torch.inference_mode()
    def right(language: MaskedLanguageModel) -> float:
        guesses = language(tokens.masked_fill(hidden, tokenizer.mask_token_id), mask, hidden).argmax(1)
        return (guesses == tokens[hidden]).float().mean().item()

    assert right(MaskedLanguageModel(model)) < 0.3
    recipe = Recipe(25, 16, 5e-3, weight_decay=0.0, optimizer="adamw")
    language = pretrain(model, [PASSAGE] * 64, tokenizer, 64, recipe, seed=0)
    assert language.encoder is model
    assert right(language) > 0.8
    with pytest.raises(DataError, match="no text"):
        pretrain(model, [], tokenizer, 64, recipe, seed=0)


def test_a_text_that_is_too_long_is_read_to_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    read: set[int] = set()

    class Noting(AlbertModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            read.update(kwargs["input_ids"].flatten().tolist())
            return super().forward(*args, **kwargs)

    model = Noting(encoder(tokenizer).config, add_pooling_layer=False)
    pretrain(model, [PASSAGE], tokenizer, 12, Recipe(6, 4, 1e-3, optimizer="adamw"), seed=0)
    assert set(tokenizer(PASSAGE)["input_ids"]) <= read


# Learning to answer


@pytest.mark.parametrize("compressed", [False, True])
def test_an_encoder_goes_from_pretraining_to_questions_with_its_weights(
    compressed: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = encoder(tokenizer)
    if compressed:
        shapeshift.compress(model, "70%", mapping="shape")
    size = shapeshift.count_parameters(model)
    pretrain(model, [PASSAGE] * 4, tokenizer, 64, Recipe(2, 4, 1e-3, optimizer="adamw"), seed=0)
    reader = QuestionAnswering(model)
    assert shapeshift.count_parameters(reader) == size + 2 * 32 + 2
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    windows = make_windows(QUESTIONS, tokenizer, length=64, stride=8, question_length=16)
    fine_tune(reader, windows, Recipe(60, 4, 5e-3, weight_decay=0.0, optimizer="adamw"), seed=0)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    answers = answer(reader, QUESTIONS, windows, threshold=0.0)
    assert answers == {"q0": "generator", "q1": "templates of a store", "q2": "layers.", "q3": ""}
    assert score(QUESTIONS, answers) == AnswerScores(100.0, 100.0)
    if compressed:
        shapeshift.materialize(model)
        assert type(model) is AlbertModel
        assert answer(reader, QUESTIONS, windows, threshold=0.0) == answers


# The benchmark

TINY = Sizes(layers=2, hidden=32, heads=2, inner=64, embedding=16)
SHORT = Recipe(2, 4, 2e-3, weight_decay=0.01, optimizer="adamw")


def task(answering: Answering) -> Task:
    """Shrink the benchmark's task to what takes a second."""
    chosen = answering.task("python_topics", "cpu")
    return replace(chosen, recipe=replace(chosen.recipe, pretraining=SHORT, fine_tuning=SHORT, search=2))


@pytest.fixture
def few_questions(made: tuple[list[Question], list[Question]], monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark._cached.cache_clear()
    monkeypatch.setattr(benchmark, "_load", lambda data, data_dir, options: (made[0][:64], made[1][:32]))


@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize(
    "row", [row for row in TABLE.rows if row.network.title == "ALBERT-base"], ids=lambda row: row.key
)
def test_every_row_has_the_size_of_albert(row: Row) -> None:
    experiment = Answering()
    chosen = task(experiment)
    prepared = benchmark._prepare(chosen)
    pretraining = Pretraining(prepared.texts, prepared.tokenizer, chosen.recipe, seed=0, device="cpu")
    small = replace(row.network, small=TINY)
    model = row.build(small, row.budget, pretraining, **row.options)
    size, albert = shapeshift.count_parameters(model), shapeshift.count_parameters(small.build(pretraining))
    assert json.dumps(row.settings)
    if row.build is distinct:
        assert size > albert
    else:
        assert 0.99 * albert < size <= albert
    assert shapeshift.is_compressed(model) == bool(row.budget)
    if row.method == "learned":
        assert len(model.shapeshift) == 4


@pytest.mark.usefixtures("few_questions")
def test_a_row_is_pretrained_trained_and_scored() -> None:
    experiment = Answering()
    row = next(row for row in TABLE.rows if row.method == "single")
    torch.manual_seed(0)
    run = experiment.run(replace(row, network=replace(row.network, small=TINY)), task(experiment), seed=0)
    assert set(run) == {"parameters", "f1", "exact"}
    assert 0 <= run["exact"] <= run["f1"] <= 100
    torch.manual_seed(0)
    assert experiment.run(replace(row, network=replace(row.network, small=TINY)), task(experiment), seed=0) == run


@pytest.mark.parametrize(("title", "size", "pooler"), [("base", 11_683_584, 768), ("large", 17_683_968, 1024)])
def test_the_full_sizes_are_those_of_albert(title: str, size: int, pooler: int) -> None:
    recipe = Answering().task("squad_v1.1", "cuda").recipe
    network = next(row.network for row in TABLE.rows if row.network.title == f"ALBERT-{title}")

    class Words:
        pad_token_id = 0

        def __len__(self) -> int:
            return 30_000

    pretraining = Pretraining((), Words(), replace(recipe, length=512), seed=0, device="meta")
    with torch.device("meta"):
        model = network.build(pretraining)
    # The published checkpoints have a pooler, which nothing here reads.
    assert shapeshift.count_parameters(model) == size - pooler * (pooler + 1)
