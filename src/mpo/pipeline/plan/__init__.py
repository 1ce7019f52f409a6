"""From analysis and cost tables to a plan that holds the budgets as measured."""
