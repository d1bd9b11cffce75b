"""Perl's questions, read from small pod files and from those of Debian's package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.perlfaq import SOURCE, answered, perlfaq, plain

FAQ = """\
=head1 NAME

perlfaq0 - A test

=head2 What is a C<scalar>?
X<scalar> X<$>

(contributed by somebody)

A value. See L<perldata/"Scalars"> or
L<the manual|https://example.org>.

    my $code = 1;

=over 4

=item 1

=back

It is B<one I<single>> value.

=head2 Is there an answer?

    no();

=head1 More

Prose of no question.

=head2 What about C<< $x->y >>?

Never E<lt>mindE<gt>.

=cut

Not pod.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pod").mkdir()
    for file in (1, 2):
        asked = (f"=head2 What is {file}{item}?\n\nIt is {file}{item}. Really. " + "So " * 30 for item in range(10))
        (tmp_path / "pod" / f"perlfaq{file}.pod").write_text("\n\n".join(asked))
    (tmp_path / "pod" / "perlfaq.pod").write_text("=head2 Is this read?\n\nNo.")
    return tmp_path


def test_a_pod_has_questions_with_the_prose_of_their_answers() -> None:
    assert list(answered(FAQ)) == [
        ("What is a scalar?", 'A value. See perldata/"Scalars" or the manual. It is one single value.'),
        ("What about $x->y?", "Never <mind>."),
    ]


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        ("C<a|b>", "a|b"),
        ("L<perlvar/$E<verbar>>", "perlvar/$|"),
        ("C<< <FILE> >> and C<E<lt>FILEE<gt>>", "<FILE> and <FILE>"),
        ("B<I<C<deep>>>X<index>", "deep"),
        ("caf\u00e9 E<eacute> 2 < 3 > 1", "caf\u00e9 eacute 2 < 3 > 1"),
    ],
)
def test_codes_become_text(pod: str, text: str) -> None:
    assert plain(pod) == text


def test_a_passage_has_the_answer_and_others_of_the_same_set(folder: Path) -> None:
    training, test = perlfaq(folder, candidates=3, words=5, passages=4)
    assert (len(training), len(test)) == (4 * 16, 4 * 4)
    asked = [{question.question for question in part} for part in (training, test)]
    assert len(asked[0]) == 16
    assert not asked[0] & asked[1]
    for part, known in zip((training, test), asked, strict=True):
        places = set()
        for question in part:
            (answer,) = question.answers
            name = re.findall(r"\d+", question.question)[0]
            assert answer.text == f"It is {name}. Really."
            items = question.context.split("\n")
            assert len(set(items)) == 3
            assert {f"What is {re.findall(r'[0-9]+', item)[0]}?" for item in items} <= known
            assert all(item.startswith("* It is ") for item in items)
            places.add(items.index(f"* {answer.text}"))
        assert places == {0, 1, 2}
    assert len({question.id for question in (*training, *test)}) == 80


def test_a_long_sentence_is_cut_and_the_split_follows_the_seed(folder: Path) -> None:
    first, again, other = (perlfaq(folder, words=2, seed=seed)[1] for seed in (0, 0, 1))
    assert {question.answers[0].text for question in first} == {"It is"}
    assert first == again != other


def test_folders_without_questions_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="apt-get install perl-doc"):
        perlfaq(empty)
    (empty / "perlfaq1.pod").write_text(FAQ)
    with pytest.raises(DataError, match="have 2 questions with answers"):
        perlfaq(empty)
    for options in ({"candidates": 1}, {"words": 0}, {"passages": 0}):
        with pytest.raises(ConfigError, match="give at least 2, 1 and 1"):
            perlfaq(folder, **options)
    (empty / "perlfaq1.pod").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"perlfaq1\.pod cannot be read as UTF-8"):
        perlfaq(empty)


@pytest.mark.skipif(not list(SOURCE.folder.glob(SOURCE.pattern)), reason="needs Debian's package perl-doc")
def test_words_in_common_find_more_answers_of_the_package_than_chance() -> None:
    training, test = perlfaq()
    assert 280 < len({question.question for question in (*training, *test)}) < 330
    found = 0
    for question in test:
        asked = set(re.findall(r"\w{4,}", question.question.lower()))
        items = question.context.split("\n")
        common = [len(asked & set(re.findall(r"\w+", item.lower()))) for item in items]
        found += items[common.index(max(common))] == f"* {question.answers[0].text}"
    assert found > 0.55 * len(test)  # and 0.33 by chance
