"""JSON schemas as grammars: fields in any order, or in the order of the schema."""
