"""What stands beside a row's oracle: distractors, guards against right answers, orders, groups."""
