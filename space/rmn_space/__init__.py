"""The page of rmn-hub: one module per tab, `page` puts them together, `safety` and `folder` keep it safe."""
