-- How good models are along the straight line from the evaluated one to the round's global one, where a site measured that.

ALTER TABLE evaluations ADD COLUMN path TEXT; -- JSON: points {t, loss, accuracy}, at most 33, t growing within 0 and 1
