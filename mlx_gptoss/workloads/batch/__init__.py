"""Work through a file of requests or texts, and go on where it was interrupted.

    from mlx_gptoss import load
    from mlx_gptoss.workloads.batch import BatchOptions, Template, run_batch

    template = Template("Extract the parties: {text}", schema=schema)
    with load("openai/gpt-oss-20b") as runtime:
        summary = run_batch(runtime, "letters.csv", "parties.csv", template=template)

items.py      a row of the input, and the request it becomes
inputs.py     lines of JSON, rows of a table, files of a folder
template.py   a row to the body of a request
endpoints.py  the body of a request to its whole reply
pool.py       many items at a time, in order or as they end
results.py    a reply to a line of OpenAI's form, or to columns
journal.py    append-only files, and what of them is known to be whole
run.py        all of it together
check.py      what is wrong and what it will take, without a model
"""

from mlx_gptoss.workloads.batch.run import BatchJob, BatchSummary, run_batch
from mlx_gptoss.workloads.batch.template import Template

__all__ = ["BatchJob", "BatchSummary", "Template", "run_batch"]
