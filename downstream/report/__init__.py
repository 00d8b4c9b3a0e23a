"""From figures to pages: evidence of the record, tables, charts, sentences, one self-contained HTML file."""
