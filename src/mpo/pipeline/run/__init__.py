"""What every stage of a run stands on: the recipe's context, figures, files, the report."""
