"""The two documents that cross srdd's borders, validated and versioned: Scan and RinConfig."""
