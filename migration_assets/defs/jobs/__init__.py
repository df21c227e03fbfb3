"""Jobs: of assets, and deeds that are no asset."""
