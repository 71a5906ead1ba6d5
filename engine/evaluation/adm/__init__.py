"""Pictures and figures as the papers have them: the .npz file that ADM's evaluation suite reads
(github.com/openai/guided-diffusion, evaluations), FID, Inception Score, precision and recall."""
