"""What a recipe will take, before anything runs: parameters, operations, memory, hours, money. Imports no torch."""
