"""Files that anybody wrote, as records of the columns that a `Table` is made of."""
