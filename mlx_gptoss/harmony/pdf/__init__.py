"""The text of PDF files that clients send, read by a process of its own.

read_pdf(data)       # "[page 1 of 2]\n..."; raises PdfError with the reason

reader (limits, and texts that were read before)
  └ child (the code that runs in the process: pypdf)
"""

from mlx_gptoss.harmony.pdf.reader import PdfError, PdfLimits, read_pdf

__all__ = ["PdfError", "PdfLimits", "read_pdf"]
