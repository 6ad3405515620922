"""The paper, element by element: runs, claims, verdicts, pictures and the page that shows them."""
