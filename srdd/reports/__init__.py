"""What a person sees of a document: in a terminal, as Markdown, as a page, as values."""
