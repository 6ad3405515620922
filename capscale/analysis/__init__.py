"""From result rows to the law: fits, uncertainty, predictions, pictures."""
