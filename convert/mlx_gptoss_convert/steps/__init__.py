"""Operations on single tensors, and the codecs they use."""
