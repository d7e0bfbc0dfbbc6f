"""ct4-orphans: applies the plan that the dbt views show."""
