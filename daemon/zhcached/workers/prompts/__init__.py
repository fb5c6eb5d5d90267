"""What reads Chinese prompts for others: translators, Chinese encoders, adapters. On the CPU."""
