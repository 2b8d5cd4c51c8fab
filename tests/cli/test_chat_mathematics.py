r"""Formulas of LaTeX in a terminal: readable, and no letter of them lost."""

# ruff: noqa: RUF001 - characters of mathematics look like others

import re
import unicodedata
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.cli.chat.layout import ScreenLayout
from mlx_gptoss.cli.chat.markdown import MarkdownStream
from mlx_gptoss.cli.chat.mathematics import DEEPEST, readable


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (r"E = mc^2", "E = mc²"),
        (r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}", "∑ᵢ₌₁ⁿ i = n(n+1)/2"),
        (r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}", "x = (-b ± √(b²-4ac))/(2a)"),
        (r"\int_0^\infty e^{-x^2}\,dx", "∫₀^∞ e^(-x²) dx"),
        (r"\lim_{x \to 0} \frac{\sin x}{x} = 1", "lim_(x → 0) (sin x)/x = 1"),
        (r"\left( \frac12 \right)^{n+1}", "(½)ⁿ⁺¹"),
        (r"\forall x\in\mathbb{R}", "∀x ∈ ℝ"),
        (r"a\le b \ne c", "a ≤ b ≠ c"),
        (r"W^{\top} x_{ij} x_b", "Wᵀ xᵢⱼ x_b"),
        (r"\hat{y} \overline{AB}", "ŷ A̅B̅"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "(1 2; 3 4)"),
        (
            r"\begin{cases} x & \text{if } x > 0 \\ 0 & \text{else}\end{cases}",
            "{ x if x > 0; 0 else",
        ),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "a = b\nc = d"),
        (r"\unknown{x} 5\%", r"\unknown{x} 5%"),
        (r"\frac{1", "1/"),
        ("}{", ""),
    ],
)
def test_a_formula_is_readable(formula: str, text: str) -> None:
    assert readable(formula) == text


words = st.sampled_from(["x", "y", "12", "7", "k"])
parts = st.recursive(
    words,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: r"\frac{{{}}}{{{}}}".format(*two)),
        st.tuples(inner, inner).map(lambda two: "{{{}}}^{{{}}}".format(*two)),
        st.tuples(inner, inner).map(lambda two: r"{}_{{{}}} \le ".format(*two)),
        st.lists(inner, min_size=1, max_size=4).map(" + ".join),
        inner.map(r"\sqrt{{{}}}".format),
        inner.map(r"\left({}\right)".format),
        inner.map(r"\foo{{{}}}".format),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(parts)
def test_every_letter_and_digit_is_kept_in_order(formula: str) -> None:
    plain = re.sub(r"\\(?!foo)[a-z]+", "", formula)
    shown = unicodedata.normalize("NFKC", readable(formula))
    shown = shown.replace("⁄", "/")  # of a fraction that is one character
    assert re.findall(r"[a-z0-9]", shown) == re.findall(r"[a-z0-9]", plain)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="\\{}^_$&[]()'~ \nabfrcsqtxlendgi012", max_size=40))
def test_no_text_is_too_odd_for_it(text: str) -> None:
    readable(text)


def test_what_is_nested_too_deeply_stays_as_it_is_written() -> None:
    formula = r"\sqrt{" * (DEEPEST + 1) + "x" + "}" * (DEEPEST + 1)
    assert readable(formula) == formula


def lines_of(text: str, *, piece: int = 1000) -> list[str]:
    stream = MarkdownStream()
    parts = []
    for n in range(0, len(text), piece):
        parts += stream.feed(text[n : n + piece])
    return ScreenLayout(StringIO()).lines(parts + stream.finish(), 60)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (r"so \(a_1 * b_2 * c\) is", ["", "so a₁ * b₂ * c is"]),
        (r"area $\pi r^2$, radius $r$", ["", "area πr², radius r"]),
        ("$5 and $6, $HOME/bin:$PATH", ["", "$5 and $6, $HOME/bin:$PATH"]),
        ("US$a_b$ or $ x $", ["", "US$a_b$ or $ x $"]),
        ("\\[\nx\n= y\n- z\n\\]", ["", "  x = y - z"]),
        ("so\n$$E = mc^2$$\nthus", ["", "so", "", "  E = mc²", "", "thus"]),
        ("- a\n  \\[ x^2 \\]\n- b", ["", " • a", "     x²", " • b"]),
        ("|a|$x^2$|\n|-|-|\n|1|\\(y_1\\)|", ["", "", " a  x²", " ─────", " 1  y₁"]),
        ("`$x^2$`\n\n    $$", ["", "$x^2$", "", "  $$"]),
    ],
)
def test_formulas_are_found_in_markdown(text: str, lines: list[str]) -> None:
    shown = lines_of(text)
    assert [line for line in shown if line] == [line for line in lines if line]


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_a_formula_looks_the_same_however_it_comes(piece: int) -> None:
    text = "a\n\n\\[\nx^2\n\n- b\n\n$$\ny_1\n$$ so\n\n\\(z\n\nlast"
    assert lines_of(text, piece=piece) == lines_of(text)
