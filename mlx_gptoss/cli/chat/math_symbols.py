"""LaTeX's commands and the Unicode characters that stand for them, as data."""

# ruff: noqa: RUF001 - characters of mathematics look like others

LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ϵ",
    "varepsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ", "vartheta": "ϑ",
    "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ",
    "pi": "π", "varpi": "ϖ", "rho": "ρ", "varrho": "ϱ", "sigma": "σ",
    "varsigma": "ς", "tau": "τ", "upsilon": "υ", "phi": "ϕ", "varphi": "φ",
    "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ",
    "Upsilon": "Υ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "hbar": "ℏ",
    "ell": "ℓ", "imath": "ı", "jmath": "ȷ", "Re": "ℜ", "Im": "ℑ", "wp": "℘",
    "aleph": "ℵ", "infty": "∞", "partial": "∂", "nabla": "∇", "emptyset": "∅",
    "varnothing": "∅", "prime": "′", "circ": "∘", "degree": "°", "angle": "∠",
    "triangle": "△", "square": "□", "blacksquare": "■", "star": "⋆", "ast": "*",
    "dagger": "†", "top": "⊤", "bot": "⊥", "forall": "∀", "exists": "∃",
    "nexists": "∄", "neg": "¬", "lnot": "¬", "ldots": "…", "dots": "…",
    "cdots": "⋯", "vdots": "⋮", "ddots": "⋱", "dotsc": "…", "dotsb": "⋯",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨",
    "rangle": "⟩", "lvert": "|", "rvert": "|", "lVert": "‖", "rVert": "‖",
    "vert": "|", "Vert": "‖", "lbrace": "{", "rbrace": "}", "lbrack": "[",
    "rbrack": "]", "backslash": "\\", "surd": "√", "checkmark": "✓",
    "S": "§", "P": "¶", "pounds": "£", "copyright": "©",
}  # fmt: skip
INFIX = {  # written with a space on either side
    "pm": "±", "mp": "∓", "times": "×", "div": "÷", "cdot": "·", "bullet": "•",
    "oplus": "⊕", "ominus": "⊖", "otimes": "⊗", "odot": "⊙", "wedge": "∧",
    "land": "∧", "vee": "∨", "lor": "∨", "cap": "∩", "cup": "∪",
    "setminus": "∖", "leq": "≤", "le": "≤", "leqslant": "≤", "geq": "≥",
    "ge": "≥", "geqslant": "≥", "neq": "≠", "ne": "≠", "approx": "≈",
    "equiv": "≡", "sim": "∼", "simeq": "≃", "cong": "≅", "propto": "∝",
    "ll": "≪", "gg": "≫", "lt": "<", "gt": ">", "prec": "≺", "succ": "≻",
    "in": "∈", "notin": "∉", "ni": "∋", "subset": "⊂", "supset": "⊃",
    "subseteq": "⊆", "supseteq": "⊇", "subsetneq": "⊊", "mid": "|",
    "nmid": "∤", "parallel": "∥", "perp": "⊥", "vdash": "⊢", "models": "⊨",
    "to": "→", "rightarrow": "→", "longrightarrow": "⟶", "leftarrow": "←",
    "gets": "←", "longleftarrow": "⟵", "leftrightarrow": "↔", "Rightarrow": "⇒",
    "Longrightarrow": "⟹", "implies": "⟹", "Leftarrow": "⇐", "impliedby": "⟸",
    "Leftrightarrow": "⇔", "iff": "⟺", "mapsto": "↦", "longmapsto": "⟼",
    "hookrightarrow": "↪", "uparrow": "↑", "downarrow": "↓", "nearrow": "↗",
    "searrow": "↘", "rightharpoonup": "⇀", "rightleftharpoons": "⇌",
    "therefore": "∴", "because": "∵", "coloneqq": "≔", "doteq": "≐",
    "bmod": "mod", "mod": "mod", "xrightarrow": "→", "xleftarrow": "←",
}  # fmt: skip
OPERATORS = {  # may carry limits; a space follows
    "sum": "∑", "prod": "∏", "coprod": "∐", "int": "∫", "iint": "∬",
    "iiint": "∭", "oint": "∮", "bigcup": "⋃", "bigcap": "⋂", "bigvee": "⋁",
    "bigwedge": "⋀", "bigoplus": "⨁", "bigotimes": "⨂",
}  # fmt: skip
FUNCTIONS = frozenset((
    "arccos", "arcsin", "arctan", "arg", "cos", "cosh", "cot", "coth", "csc", "deg",
    "det", "dim", "exp", "gcd", "hom", "inf", "ker", "lg", "lim", "liminf",
    "limsup", "ln", "log", "max", "min", "Pr", "sec", "sin", "sinh", "sup", "tan",
    "tanh", "lcm",
))  # fmt: skip
SPACES = {
    ",": " ", ":": " ", ";": " ", " ": " ", "!": "", ">": " ",
    "quad": "  ", "qquad": "    ", "enspace": " ", "thinspace": " ", "space": " ",
}  # fmt: skip
DROPPED = frozenset((
    "left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl",
    "Bigr", "biggl", "biggr", "Biggl", "Biggr", "bigm", "displaystyle", "textstyle",
    "scriptstyle", "limits", "nolimits", "nonumber", "notag", "hline", "mathstrut",
    "strut",
))  # fmt: skip
DROPPED_WITH_ARGUMENT = frozenset((
    "label", "phantom", "hphantom", "vphantom", "color", "hspace",
))  # fmt: skip
TEXTS = frozenset((
    "text", "textrm", "textbf", "textit", "textsf", "texttt", "mbox", "hbox",
    "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "boldsymbol", "bm",
    "operatorname", "mathop", "mathbin", "mathrel", "mathnormal", "boxed", "fbox",
    "underbrace", "overbrace", "underline", "substack", "ensuremath", "emph",
))  # fmt: skip
ALPHABETS = {  # names of Unicode's letters
    "mathbb": ("DOUBLE-STRUCK", "MATHEMATICAL DOUBLE-STRUCK"),
    "mathcal": ("SCRIPT", "MATHEMATICAL SCRIPT"),
    "mathscr": ("SCRIPT", "MATHEMATICAL SCRIPT"),
    "mathfrak": ("BLACK-LETTER", "MATHEMATICAL FRAKTUR"),
}
ACCENTS = {  # combining characters
    "hat": "\u0302", "widehat": "\u0302", "bar": "\u0304", "overline": "\u0305",
    "vec": "\u20d7", "overrightarrow": "\u20d7", "dot": "\u0307",
    "ddot": "\u0308", "tilde": "\u0303", "widetilde": "\u0303",
    "check": "\u030c", "breve": "\u0306", "acute": "\u0301", "grave": "\u0300",
}  # fmt: skip
EACH = ("bar", "overline")  # accents that stand on every letter
NEGATED = {"=": "≠", "∈": "∉", "⊂": "⊄", "≡": "≢", "<": "≮", ">": "≯", "∼": "≁"}
FRACTIONS = {
    ("1", "2"): "½", ("1", "3"): "⅓", ("2", "3"): "⅔", ("1", "4"): "¼",
    ("3", "4"): "¾", ("1", "5"): "⅕", ("1", "6"): "⅙", ("1", "8"): "⅛",
}  # fmt: skip
SUPERSCRIPTS = dict(
    zip(
        "0123456789+-=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUVWβγδθ−′°*⊤",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵝᵞᵟᶿ⁻′°*ᵀ",
        strict=True,
    )
) | {"∘": "°"}
SUBSCRIPTS = dict(
    zip(
        "0123456789+-=()aehijklmnoprstuvxβγρφχ−",
        "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ₋",
        strict=True,
    )
)
ROOTS = {"": "√", "2": "√", "3": "∛", "4": "∜"}
BRACKETS = {  # of environments with rows
    "matrix": ("[", "]"), "smallmatrix": ("[", "]"), "array": ("[", "]"),
    "bmatrix": ("[", "]"), "pmatrix": ("(", ")"), "Bmatrix": ("{", "}"),
    "vmatrix": ("|", "|"), "Vmatrix": ("‖", "‖"), "cases": ("{ ", ""),
}  # fmt: skip
