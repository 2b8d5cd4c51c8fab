"""Judge texts by policies that one writes oneself, as gpt-oss-safeguard is trained to.

    from mlx_gptoss import load
    from mlx_gptoss.workloads.classify import Classifier, read_policy

    policy = read_policy(Path("spam.md"))
    with load("openai/gpt-oss-safeguard-20b") as runtime:
        verdict = asyncio.run(Classifier(runtime).classify(text, policy))

policy.py       a policy: its text, labels and rules
question.py     what the model is asked, in the trained form
classifier.py   a text to a verdict, with the probabilities of all labels
verdict.py      a verdict
calibration.py  probabilities that labelled texts bear out
inputs.py       files, rows of tables, folders, stdin
results.py      verdicts as lines
run.py          a whole pile
report.py       confusion matrix, precision, recall, what went wrong
"""

from mlx_gptoss.workloads.classify.classifier import Classifier, ClassifyOptions
from mlx_gptoss.workloads.classify.policy import Policy, read_policy
from mlx_gptoss.workloads.classify.verdict import Verdict

__all__ = ["Classifier", "ClassifyOptions", "Policy", "Verdict", "read_policy"]
