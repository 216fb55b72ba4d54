"""Text to phoneme ids: sentences, languages, normalisation, grapheme-to-phoneme. No torch."""
